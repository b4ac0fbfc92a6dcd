"""What the outputs of two tasks and several branches are made of: maps, transforms and votes (DBiSL).

Shapes: A branches (decoders), B labelled samples, N labelled and unlabelled ones, the labelled first, K maps
of foreground classes or regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_ssl.distance import (
    distance_logits,
    distance_to_seg,
    known_distance,
    off_centre_sum,
    seg_to_distance,
)
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.losses.votes import vote_dice
from nnunet_ssl.methods.base import Terms
from nnunet_ssl.methods.dbisl_options import DBiSLConfig
from nnunet_ssl.nn.task_decoders import Branch
from nnunet_ssl.targets import LabelSpace, mean_weight

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


def asked_maps(space: LabelSpace, tasks: Tensor, count: int) -> Tensor:
    """(count, K) bool: which maps of each sample count; ``tasks`` are those of the first, labelled ones."""
    own = space.own_prompts(tasks)
    return torch.cat([own, own.new_ones(count - len(own), space.num_prompts)])


class Distances(NamedTuple):
    """What T_s2r makes of a step.

    Attributes:
        labels: R of the labels (B, K, *spatial).
        known: where it is known beside ignored voxels, the same shape; ``None`` for everywhere.
        of_y: T_s2r of the predictions (A, N, K, *spatial); ``None`` where no term wants it.
        of_labeled: the same of the labelled samples (A, B, K, *spatial), with what the labels ignore taken
            for outside, as in ``labels``: one large organ there would change the scale of the map.
    """

    labels: Tensor
    known: Tensor | None
    of_y: Tensor | None
    of_labeled: Tensor | None


class Transforms:
    """T_s2r and T_r2s with the options of a training.

    Args:
        config: the options.
        spacing: voxel edges in mm, one per axis.

    Raises:
        ConfigError: ``distance_h`` is too large for the convolutional transform.
    """

    def __init__(self, config: DBiSLConfig, spacing: Sequence[float]) -> None:
        self.config = config
        self.spacing = tuple(spacing) if config.distance_form == "exact" else None  # the other counts voxels
        if config.distance_form == "convolution":
            _check_kernel(config, len(spacing))

    def s2r(self, y: Tensor) -> Tensor:
        """Signed distance maps of probabilities (B, C, *spatial) (eq. 5)."""
        config = self.config
        return seg_to_distance(
            y,
            config.distance_scale,
            spacing=self.spacing,
            form=config.distance_form,
            kernel_size=config.distance_kernel_size,
            h=config.distance_h,
            band=config.distance_band,
        )

    def r2s(self, r: Tensor) -> Tensor:
        """Probabilities of signed distance maps of any shape (eq. 1)."""
        return distance_to_seg(r, self.config.distance_k)

    def r2s_logits(self, r: Tensor) -> Tensor:
        """Their log-odds."""
        return distance_logits(r, self.config.distance_k)

    def of_step(self, y: Tensor, target: Tensor, space: LabelSpace) -> Distances:
        """All transforms of a step in one batch; that of a prediction serves two losses.

        Args:
            y: predictions (A, N, K, *spatial).
            target: of the labelled samples, in nnU-Net's form.
            space: the tasks.
        """
        count, prompts = len(target), space.num_prompts
        index = torch.arange(count * prompts, device=target.device)
        truth = space.binary(target, index // prompts, index % prompts).unflatten(0, (count, prompts))
        valid = space.valid(target)
        known = None if valid is None else known_distance(truth & valid[:, None], ~valid, self.spacing)
        if not self.config.s2r:
            return Distances(self.s2r(truth.to(y.dtype)), known, None, None)
        maps = [truth.to(y.dtype), y.flatten(0, 1)]
        if valid is not None:
            maps.append((y[:, :count] * valid[:, None]).flatten(0, 1))
        labels, of_y, *annotated = self.s2r(torch.cat(maps)).split([len(m) for m in maps])
        of_y = of_y.view_as(y)
        of_labeled = annotated[0].view_as(y[:, :count]) if annotated else of_y[:, :count]
        return Distances(labels, known, of_y, of_labeled)


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
    """Curves with the weight 0.

    - ``confident``: share of voxels that all outputs agree on, M's mean;
    - ``confident_foreground``: share that all outputs call foreground among those that any does;
    - ``agreement``: Dice of the two tasks of a branch, mean over branches.
    """
    mean, some = mean_weight(maps.asked), votes.any(0).sum().clamp(min=1)
    per_region = confident.ndim == maps.y.ndim - 1
    share = (confident.float().flatten(2).mean(2) * mean).sum() if per_region else confident.float().mean()
    values: Terms = {"confident": (share, 0.0), "confident_foreground": (votes.all(0).sum() / some, 0.0)}
    if maps.r is not None:
        y, r = votes.chunk(2)
        agreement = vote_dice(y.flatten(0, 1), r.flatten(0, 1), mean.repeat(len(y), 1))
        values["agreement"] = (agreement, 0.0)
    return values


def _check_kernel(config: DBiSLConfig, dims: int) -> None:
    total = off_centre_sum(config.distance_kernel_size, config.distance_h, dims)
    if total >= 1:
        raise ConfigError(
            f"distance_h={config.distance_h} is too large for distance_form=convolution with a kernel of "
            f"{config.distance_kernel_size} in {dims}D: the neighbours' weights add up to {total:.3f}, "
            "expected less than 1, or holes of one voxel vanish. Take a smaller distance_h, 0.35 say."
        )


def _per_map(flags: Tensor, like: Tensor) -> Tensor:
    """(N, K) to a shape that goes with (A, N, K, *spatial)."""
    return flags.view(*flags.shape, *[1] * (like.ndim - 3))
