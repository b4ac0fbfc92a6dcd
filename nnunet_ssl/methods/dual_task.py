"""What the outputs of two tasks and several branches are made of: maps, votes and pictures (DBiSL).

Shapes: A branches (decoders), N samples, the labelled ones first, K maps of foreground classes or regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_ssl.losses.votes import vote_dice
from nnunet_ssl.methods.base import Terms
from nnunet_ssl.nn.task_decoders import Branch
from nnunet_ssl.targets import LabelSpace

NEVER = -1e4  # logit of a class that a labelled sample's task does not know: its probability is exactly 0


class Maps(NamedTuple):
    """Both tasks' outputs at the full resolution, in float32.

    Attributes:
        log: log-probabilities of classes (A, N, 1 + K, *spatial), or logits of regions (A, N, K, *spatial).
        y: probability of foreground (A, N, K, *spatial).
        r: signed distance, the same shape; ``None`` without regression heads.
        asked: (N, K) bool: all maps of an unlabelled sample, those of its task of a labelled one.
    """

    log: Tensor
    y: Tensor
    r: Tensor | None
    asked: Tensor


def asked_maps(space: LabelSpace, tasks: Tensor, count: int) -> Tensor:
    """(count, K) bool: which maps of each sample count; ``tasks`` are those of the first, labelled ones."""
    owner = torch.tensor([p.task for p in space.table.prompts], device=tasks.device)
    asked = torch.ones(count, len(owner), dtype=torch.bool, device=tasks.device)
    asked[: len(tasks)] = tasks[:, None] == owner
    return asked


def mean_weight(asked: Tensor) -> Tensor:
    """(N, K) of each map in a mean: samples weigh the same, within a sample the maps it is asked for."""
    return asked / asked.sum(1, keepdim=True) / len(asked)


def make_maps(branches: Sequence[Branch], space: LabelSpace, tasks: Tensor) -> Maps:
    """Outputs as maps. Of a labelled sample the classes of other tasks are unknown: they take no part."""
    logits = torch.stack([b.segmentation[0].float() for b in branches])
    asked = asked_maps(space, tasks, logits.shape[1])
    regressions = [b.regression for b in branches if b.regression is not None]
    r = torch.stack(regressions) if regressions else None
    if space.table.has_regions:
        return Maps(logits, torch.sigmoid(logits), r, asked)
    if len(space.table) > 1:
        known = torch.cat([torch.ones_like(asked[:, :1]), asked], dim=1)
        logits = torch.where(_per_map(known, logits), logits, NEVER)
    log = logits.log_softmax(2)
    return Maps(log, log[:, :, 1:].exp(), r, asked)


def vote(maps: Maps, space: LabelSpace) -> tuple[Tensor, Tensor]:
    """All votes and where they agree (eq. 13).

    A voxel is confident if every output says the same of every class. Where none says foreground, all
    segmentations have to be sure of the background, too; with one class they are.

    Returns:
        Votes (2A, N, K, *spatial) bool, those of the segmentations first; M, (N, *spatial) bool for classes
        and (N, K, *spatial) for regions.
    """
    votes = maps.y > 0.5
    if maps.r is not None:
        votes = torch.cat([votes, maps.r > 0])
    asked = _per_map(maps.asked, maps.y)
    votes = votes & asked
    confident = (votes == votes[:1]).all(0)
    if space.table.has_regions:
        return votes, confident & asked
    background = (maps.log[:, :, 0] > math.log(0.5)).all(0)
    return votes, confident.all(1) & (background | votes[0].any(1))


def watched(maps: Maps, votes: Tensor, confident: Tensor) -> Terms:
    """``confident``, ``confident_foreground`` and ``agreement`` of DBiSL, with the weight 0."""
    some = votes.any(0).sum().clamp(min=1)
    values: Terms = {
        "confident": (confident.float().mean(), 0.0),
        "confident_foreground": (votes.all(0).sum() / some, 0.0),
    }
    if maps.r is not None:
        y, r = votes.chunk(2)
        weight = mean_weight(maps.asked).repeat(len(y), 1)
        values["agreement"] = (vote_dice(y.flatten(0, 1), r.flatten(0, 1), weight), 0.0)
    return values


def label_map(space: LabelSpace, target: Tensor) -> Tensor:
    """(B, *spatial) of a target; of regions the last one that holds a voxel, counted from 1."""
    if not space.table.has_regions:
        return target[:, 0]
    number = torch.arange(1, space.num_prompts + 1, device=target.device)
    return (target[:, : space.num_prompts].bool() * number.view(-1, *[1] * (target.ndim - 2))).amax(1)


def _per_map(flags: Tensor, like: Tensor) -> Tensor:
    """(N, K) to a shape that goes with (A, N, K, *spatial)."""
    return flags.view(*flags.shape, *[1] * (like.ndim - 3))
