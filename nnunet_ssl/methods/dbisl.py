"""DBiSL (Li): segmentation and signed distance, two tasks that teach each other through transforms.

One encoder, two decoders with different upsampling, each with a segmentation head (Y) and a regression head
(R). T_s2r turns segmentations into distance maps, T_r2s distance maps into segmentations, both with
gradients, so every output can be compared with every other. Every foreground class has maps of its own, one
against the rest (section 5.4). Equation numbers are those of the paper.

Shapes: A branches (decoders), B labelled samples, N labelled and unlabelled ones, the labelled first, K maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from nnunet_ssl.losses.distance import channel_mse
from nnunet_ssl.losses.votes import class_pseudo_loss, region_pseudo_loss
from nnunet_ssl.methods.base import Batch, Method, Panel, Terms
from nnunet_ssl.methods.dbisl_options import DBiSLConfig
from nnunet_ssl.methods.dual_task import Distances, Maps, Transforms, make_maps, vote, watched
from nnunet_ssl.methods.dual_task_pictures import strip
from nnunet_ssl.nn.task_decoders import Branch, run_branches
from nnunet_ssl.ramps import gaussian_ramp
from nnunet_ssl.targets import LabelSpace, SegmentationLoss, mean_weight, partial_label_loss, prompted_loss

__all__ = ["DBiSL", "DBiSLConfig"]


class DBiSL(Method):
    """L = lambda (L_sup + L_con) + beta L_pse (eq. 15).

    Args:
        config: the options.
        loss: nnU-Net's loss, deep supervision included.
        space: tasks and prompts of the dataset.
        deep_supervision: whether ``loss`` takes lists.
        spacing: voxel edges in mm, one per axis.
        batch_dice: one Dice per map over the batch instead of one per sample, as the plans say.

    Raises:
        ConfigError: distance_h is too large for the convolutional transform.
    """

    def __init__(
        self,
        config: DBiSLConfig,
        loss: SegmentationLoss,
        space: LabelSpace,
        deep_supervision: bool,
        spacing: Sequence[float],
        batch_dice: bool = False,
    ) -> None:
        self.config = config
        self.loss = loss
        self.space = space
        self.deep_supervision = deep_supervision
        self.batch_dice = batch_dice
        self.transforms = Transforms(config, spacing)
        self.uses_unlabeled = config.consistency or config.weight_pseudo > 0
        # What happens inside the one call of the network
        self.run = partial(run_branches, second=config.second_decoder, regression=config.regression_task)

    def losses(self, network: nn.Module, batch: Batch, progress: float, generator: torch.Generator) -> Terms:
        """Terms of eqs. 6, 7, 9, 10 and 14, and the curves of ``dual_task.watched``."""
        images = batch.labeled
        if self.uses_unlabeled:
            images = torch.cat([images, batch.need_unlabeled()])
        branches = network(images, self.run)
        terms: Terms = {"segmentation": (self._segmentation(branches, batch), self.config.weight_sup_con)}
        with torch.autocast(images.device.type, enabled=False):
            maps = make_maps(branches, self.space, batch.tasks)
            if maps.r is not None:
                distances = self.transforms.of_step(maps.y, batch.targets[0], self.space)
                terms |= self._supervision(maps.r, distances, batch)
                terms |= self._cross_supervision(maps.r, distances, batch)
            terms |= self._intra_consistency(maps)
            if maps.r is not None:
                terms |= self._cross_consistency(maps.y, maps.r, distances, mean_weight(maps.asked))
            votes, confident = vote(maps, self.space)
            terms |= self._pseudo(maps, confident, len(batch.labeled), progress)
            return terms | watched(maps, votes, confident)

    def _segmentation(self, branches: list[Branch], batch: Batch) -> Tensor:
        """L_seg of both branches (eq. 6): nnU-Net's loss.

        Both get nnU-Net's deep supervision: what makes the branches differ is to be their upsampling, and the
        second has half of the votes. It costs 1x1 convolutions at the lower resolutions.
        """
        deep, count = self.deep_supervision, len(batch.labeled)
        targets = batch.targets if deep else batch.targets[0]

        def loss(branch: Branch) -> Tensor:
            outputs = [o[:count] for o in branch.segmentation]
            return partial_label_loss(
                self.loss, outputs if deep else outputs[0], targets, batch.tasks, self.space
            )

        return _total([loss(branch) for branch in branches])

    def _supervision(self, r: Tensor, distances: Distances, batch: Batch) -> Terms:
        """L_mse of both branches (eq. 6)."""
        weight = self.config.weight_sup_con * self.config.weight_regression
        return {"regression": (self._against_labels(r, distances, batch), weight)} if weight else {}

    def _cross_supervision(self, r: Tensor, distances: Distances, batch: Batch) -> Terms:
        """Each task by the labels of the other (eq. 7)."""
        weight = self.config.weight_sup_con * self.config.weight_cross_supervision
        terms: Terms = {}
        if weight and distances.of_labeled is not None:
            terms["cross_regression"] = (self._against_labels(distances.of_labeled, distances, batch), weight)
        if weight and self.config.r2s:
            terms["cross_segmentation"] = (self._segmentation_of_r(r[:, : len(batch.labeled)], batch), weight)
        return terms

    def _against_labels(self, r: Tensor, distances: Distances, batch: Batch) -> Tensor:
        """L_mse(R, labels), over what is known of the labels."""
        weight, count = mean_weight(self.space.own_prompts(batch.tasks)), len(batch.labeled)
        return _total([channel_mse(m[:count], distances.labels, weight, distances.known) for m in r])

    def _segmentation_of_r(self, r: Tensor, batch: Batch) -> Tensor:
        """L_seg(T_r2s(R), Y) (eq. 7), binary for each map, from k R itself."""
        pairs = self.space.own_pairs(batch.tasks)
        loss = partial(
            prompted_loss,
            target=batch.targets[0],
            pairs=pairs,
            space=self.space,
            batch_dice=self.batch_dice,
            ce_weight=self.config.cross_entropy_weight,
        )
        return _total([loss(self.transforms.r2s_logits(branch[pairs.sample, pairs.prompt])) for branch in r])

    def _intra_consistency(self, maps: Maps) -> Terms:
        """The same task in both branches (eq. 9)."""
        weight = self.config.weight_sup_con * self.config.weight_intra_consistency
        if weight == 0 or len(maps.y) == 1:
            return {}
        mean = mean_weight(maps.asked)
        terms: Terms = {"consistency_segmentation": (channel_mse(maps.y[0], maps.y[1], mean), weight)}
        if maps.r is not None:
            terms["consistency_regression"] = (channel_mse(maps.r[0], maps.r[1], mean), weight)
        return terms

    def _cross_consistency(self, y: Tensor, r: Tensor, distances: Distances, mean: Tensor) -> Terms:
        """Both tasks of the same branch (eq. 10)."""
        weight = self.config.weight_sup_con * self.config.weight_cross_consistency

        def agreement(ones: Tensor, others: Tensor) -> Tensor:
            return _total([channel_mse(a, b, mean) for a, b in zip(ones, others, strict=True)])

        terms: Terms = {}
        if weight and distances.of_y is not None:
            terms["consistency_s2r"] = (agreement(distances.of_y, r), weight)
        if weight and self.config.r2s:
            terms["consistency_r2s"] = (agreement(self.transforms.r2s(r), y), weight)
        return terms

    def _pseudo(self, maps: Maps, confident: Tensor, count: int, progress: float) -> Terms:
        """L_pse (eqs. 12 and 14), on all images or those after the first ``count``; its weight is beta."""
        if self.config.weight_pseudo == 0:
            return {}
        first = count if self.config.pseudo_on == "unlabeled" else 0
        loss: Callable[[Tensor, Tensor], Tensor]
        loss = region_pseudo_loss if self.space.table.has_regions else class_pseudo_loss
        beta = self.config.weight_pseudo * gaussian_ramp(progress, self.config.ramp_length)
        return {"pseudo": (loss(maps.log[:, first:], confident[first:]), beta)}

    def pseudo_labels(
        self, network: nn.Module, images: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        """The branches' segmentations, the one that predicts first."""
        branches: list[Branch] = network(images, self.run)
        return [branch.segmentation[0] for branch in branches]

    def preview(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[list[Panel]]:
        """A labelled and, if there is one, an unlabelled sample through the first branch."""
        images = torch.cat([x[:1] for x in (batch.labeled, batch.unlabeled) if x is not None])
        maps = make_maps(network(images, self.run), self.space, batch.tasks[:1])
        truths = [batch.targets[0][:1], None]
        return [
            strip(image, truth, row, maps, self.space, self.transforms)
            for row, (image, truth) in enumerate(zip(images, truths, strict=False))
        ]


def _total(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()
