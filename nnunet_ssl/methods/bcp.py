"""BCP, bidirectional copy-paste (Bai, Chen, Li, Shen, Wang, CVPR 2023).

Boxes are pasted from labelled into unlabelled images and the other way, so that both kinds share one
distribution; a teacher, the student's moving average, labels the unlabelled part. Before that a warm-up on
labelled copy-paste alone.

Shapes: B labelled and U unlabelled samples, N = 2 max(B, U) mixes; M is 0 in the box and 1 outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from acvl_utils.morphology.morphology_helper import generic_filter_components
from torch import Tensor, nn

from nnunet_ssl.config import check_range
from nnunet_ssl.masks import leave_whole, mix, mix_targets, same_task_partners, sample_masks
from nnunet_ssl.methods.base import Batch, Method, Terms
from nnunet_ssl.nn.ema import TEACHER, num_updates, start_other, update_teacher
from nnunet_ssl.nn.multi_decoder import MultiDecoderUNet
from nnunet_ssl.targets import LabelSpace, Outputs, SegmentationLoss, full_resolution, partial_label_loss


@dataclass(frozen=True)
class BCPConfig:
    """Options of BCP; the defaults are the paper's unless a reason is given.

    Attributes:
        warmup: share of training on labelled copy-paste alone. Official: 2000 of 17000 updates for the left
            atrium, 10000 of 40000 for ACDC.
        weight_unlabeled: alpha, weight of the pseudo-labelled voxels.
        ema_decay: decay of the teacher.
        bcp_box_side: beta, each side of the box as a share of the patch's.
        bcp_probability: share of the mixes that are mixed; the others are the labelled image alone. The paper
            has 1, and batch norm: with instance norm a network that never saw a whole image does worse on
            one (left atrium 81.6 against 84.2, hippocampus 77.7 against 78.8).
        bcp_largest_component: keep the largest connected component of each label of a pseudo-label. Right
            for one organ of each kind; wrong for lesions or paired organs.
    """

    warmup: float = 0.2
    weight_unlabeled: float = 0.5
    ema_decay: float = 0.99
    bcp_box_side: float = 2 / 3
    bcp_probability: float = 0.5
    bcp_largest_component: bool = True

    def __post_init__(self) -> None:
        check_range("weight_unlabeled", self.weight_unlabeled, low=0)
        for name in ("warmup", "ema_decay", "bcp_box_side", "bcp_probability"):
            check_range(name, getattr(self, name), low=0, high=1)


class BCP(Method):
    """L = (L_in + L_out) / 2, each with weight 1 where truth is known and alpha where the teacher labels.

    The official loss is the sum of L_in and L_out with half of Dice + CE in each; so both have one size.

    Args:
        config: the options.
        loss: nnU-Net's loss, deep supervision included, for a dataset with the ignore label of
            ``space.with_ignore_label()``; it judges labelled voxels.
        full_loss: the same for the full resolution; it judges pseudo-labelled voxels.
        space: the tasks. In a mix the labelled voxels are judged on the labels of their own task, the others
            on the teacher's labels of all tasks.
        deep_supervision: whether ``loss`` takes lists.
    """

    def __init__(
        self,
        config: BCPConfig,
        loss: SegmentationLoss,
        full_loss: SegmentationLoss,
        space: LabelSpace,
        deep_supervision: bool,
    ) -> None:
        self.config = config
        self.loss = loss
        self.full_loss = full_loss
        self.space = space.with_ignore_label()
        self.deep_supervision = deep_supervision
        self.uses_unlabeled = config.warmup < 1

    def losses(self, network: nn.Module, batch: Batch, progress: float, generator: torch.Generator) -> Terms:
        """Terms ``labeled`` and, after the warm-up, ``unlabeled``; watched: ``foreground_unlabeled``."""
        if progress < self.config.warmup:
            return {"labeled": (self._warm_up(network, batch, generator), 1.0)}
        start_other(network)
        sources = batch.need_unlabeled()
        half = max(len(batch.labeled), len(sources))
        every = torch.arange(half, device=sources.device)
        i, p = torch.cat([every, every + 1]) % len(batch.labeled), every.repeat(2) % len(sources)
        known = self._boxes(2 * half, sources, generator)  # x_in = x_i M + x_p (1 - M)
        known[half:] = ~known[half:]  # x_out, with other pairs, has it the other way round
        known = leave_whole(known, self.config.bcp_probability, generator)

        def run(parts: MultiDecoderUNet, images: Tensor) -> tuple[Outputs, Tensor]:
            with torch.no_grad():
                pseudo = self._pseudo_label(full_resolution(parts.extra(TEACHER)(images)))
            return parts.decoder(parts.encoder(mix(batch.labeled[i], images[p], known))), pseudo

        outputs, pseudo = network(sources, run)
        labeled = unlabeled = torch.zeros((), device=sources.device)
        for way in (slice(half), slice(half, None)):  # L_in, L_out
            own, student = i[way], [o[way] for o in _resolutions(outputs)]
            truth = [self.space.masked(t[own], known[way]) for t in batch.targets]
            labeled = labeled + self._truth_loss(student, truth, batch.tasks[own]) / 2
            taught = self.space.masked(pseudo[p[way]], ~known[way])
            # In a whole image nothing is taught: Dice's gradient of 1 / smooth would overflow half precision
            unlabeled = unlabeled + self.full_loss(student[0].float(), taught) / 2
        return {
            "labeled": (labeled, 1.0),
            "unlabeled": (unlabeled, self.config.weight_unlabeled),
            "foreground_unlabeled": (self.space.foreground(pseudo).float().mean(), 0.0),
        }

    def after_update(self, network: nn.Module, progress: float) -> None:
        """The teacher follows; where the warm-up ends it begins as a copy of the student."""
        if progress >= self.config.warmup:
            update_teacher(network, self.config.ema_decay if num_updates(network) else 0.0)

    def pseudo_labels(
        self, network: nn.Module, images: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        """The teacher's, components not filtered, then the student's; in the warm-up there is no teacher."""

        def run(parts: MultiDecoderUNet, images: Tensor) -> list[Tensor]:
            views = [parts.extra(TEACHER)(images)] if num_updates(parts) else []
            return [full_resolution(v) for v in (*views, parts.decoder(parts.encoder(images)))]

        views: list[Tensor] = network(images, run)
        return views

    def _warm_up(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Copy-paste among labelled images of one task: of another one the box's labels would be unknown."""
        partner = same_task_partners(batch.tasks)
        boxes = self._boxes(len(batch.labeled), batch.labeled, generator)
        mask = leave_whole(boxes, self.config.bcp_probability, generator)
        targets = mix_targets(batch.targets, partner, mask)
        targets = [self.space.masked(t, torch.ones_like(mask)) for t in targets]
        outputs = network(mix(batch.labeled, batch.labeled[partner], mask))
        return self._truth_loss(_resolutions(outputs), targets, batch.tasks)

    def _truth_loss(self, outputs: list[Tensor], targets: list[Tensor], tasks: Tensor) -> Tensor:
        """nnU-Net's loss of known voxels, each sample on the labels of its own task."""
        if self.deep_supervision:
            return partial_label_loss(self.loss, outputs, targets, tasks, self.space)
        return partial_label_loss(self.loss, outputs[0], targets[0], tasks, self.space)

    def _boxes(self, count: int, images: Tensor, generator: torch.Generator) -> Tensor:
        """M, (count, 1, *spatial) bool; the official code takes one box for the whole batch."""
        side = (self.config.bcp_box_side, self.config.bcp_box_side)
        return sample_masks("box", count, images.shape[2:], side, generator, "side").bool().to(images.device)

    @torch.compiler.disable  # SciPy looks for the components
    def _pseudo_label(self, logits: Tensor) -> Tensor:
        target = self.space.hard(logits)
        return largest_components(target) if self.config.bcp_largest_component else target


def largest_components(target: Tensor) -> Tensor:
    """Keep the largest connected component of each label or region, corners count as contact.

    Args:
        target: (N, 1, *spatial) label map or (N, regions, *spatial); each sample by itself.
    """
    kept = target.cpu().numpy().copy()
    for channel in kept.reshape(-1, *kept.shape[2:]):  # views
        for value in np.setdiff1d(channel, 0):
            found = channel == value
            # Not acvl_utils' own search, which is quadratic: an early pseudo-label has thousands of specks
            largest = generic_filter_components(found, lambda ids, sizes: [ids[int(np.argmax(sizes))]])
            channel[found & ~largest] = 0
    return torch.from_numpy(kept).to(target.device)


def _resolutions(outputs: Outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
