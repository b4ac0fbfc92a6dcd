"""DBiSL (Li): segmentation and signed distance, two tasks that teach each other through transforms.

One encoder, two decoders with different upsampling, each with a segmentation head (Y) and a regression head
(R). T_s2r turns segmentations into distance maps, T_r2s distance maps into segmentations, both with
gradients, so every output can be compared with every other. Every foreground class has maps of its own, one
against the rest (section 5.4). Equation numbers are those of the paper.

Shapes: A branches (decoders), B labelled samples, N labelled and unlabelled ones, the labelled first, K maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_ssl.config import check_range
from nnunet_ssl.distance import (
    Form,
    distance_logits,
    distance_to_seg,
    known_distance,
    off_centre_sum,
    seg_to_distance,
)
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.losses.dice_ce import binary_dice_ce
from nnunet_ssl.losses.distance import channel_mse
from nnunet_ssl.losses.votes import class_pseudo_loss, region_pseudo_loss
from nnunet_ssl.methods.base import Batch, Method, Panel, Terms
from nnunet_ssl.methods.dual_task import Maps, asked_maps, label_map, make_maps, mean_weight, vote, watched
from nnunet_ssl.nn.task_decoders import Branch, run_branches
from nnunet_ssl.ramps import gaussian_ramp
from nnunet_ssl.targets import LabelSpace, Outputs, SegmentationLoss, partial_label_loss


@dataclass(frozen=True)
class DBiSLConfig:
    """Options of DBiSL; the defaults are the paper's unless a reason is given. A weight of 0 drops its term.

    Attributes:
        weight_sup_con: lambda of eq. 15, on all supervised and consistency terms.
        weight_regression: of the regression loss against labels (eq. 6, second term).
        weight_cross_supervision: of the supervision across tasks (eq. 7; Table 4, ct_sup).
        weight_intra_consistency: of the consistency between branches (eq. 9; Table 4, it_con).
        weight_cross_consistency: of the consistency between tasks (eq. 10; Table 4, ct_con).
        weight_pseudo: largest beta of eq. 15 (Table 4, pse_sup).
        ramp_length: share of training over which beta ramps up, 0 for none.
        pseudo_on: teach pseudo-labels on ``all`` images or the ``unlabeled`` only (Table 5).
        cross_direction: transforms that tie the tasks: ``both``, ``s2r`` or ``r2s`` alone (Table 13).
        regression_task: ``false`` leaves out the regression heads and all their terms (Table 4, reg_task).
        second_decoder: ``false`` leaves out the second decoder.
        distance_form: T_s2r by the ``exact`` transform or the paper's ``convolution``. See
            ``nnunet_ssl.distance.seg_to_distance``, also for the next five.
        distance_scale: resolution of T_s2r relative to the patch (Table 9). The paper takes 0.5 because its
            transform would not fit into memory otherwise and finds that more is better; ours fits.
        distance_kernel_size: edge of the kernel of eq. 2.
        distance_h: softness of the kernel of eq. 2, in voxels.
        distance_band: distances are cut down to it, in mm (voxels for ``convolution``); ``None`` for not.
        distance_k: steepness k of T_r2s (eq. 1).
        inference_branches: predict with the ``first`` decoder, which is stock nnU-Net's network, or with the
            ``mean`` of both, at the price of a second decoder.
    """

    weight_sup_con: float = 0.5
    weight_regression: float = 1.0
    weight_cross_supervision: float = 1.0
    weight_intra_consistency: float = 1.0
    weight_cross_consistency: float = 1.0
    weight_pseudo: float = 1.0
    ramp_length: float = 0.35
    pseudo_on: Literal["all", "unlabeled"] = "all"
    cross_direction: Literal["both", "s2r", "r2s"] = "both"
    regression_task: bool = True
    second_decoder: bool = True
    distance_form: Form = "exact"
    distance_scale: float = 1.0
    distance_kernel_size: int = 3
    distance_h: float = 0.35
    distance_band: float | None = None
    distance_k: float = 200.0
    inference_branches: Literal["first", "mean"] = "first"

    def __post_init__(self) -> None:
        check_range("weight_sup_con", self.weight_sup_con, low=0, open_low=True)
        for name in ("regression", "cross_supervision", "intra_consistency", "cross_consistency", "pseudo"):
            check_range(f"weight_{name}", getattr(self, f"weight_{name}"), low=0)
        check_range("ramp_length", self.ramp_length, low=0, high=1)
        check_range("distance_scale", self.distance_scale, low=0, high=1, open_low=True)
        check_range("distance_kernel_size", self.distance_kernel_size, low=3)
        check_range("distance_h", self.distance_h, low=0, open_low=True)
        check_range("distance_k", self.distance_k, low=0, open_low=True)
        if self.distance_band is not None:
            check_range("distance_band", self.distance_band, low=0, open_low=True)
        if self.distance_kernel_size % 2 == 0:
            raise ConfigError(
                f"Option distance_kernel_size: expected an odd number, got {self.distance_kernel_size}."
            )
        if self.inference_branches == "mean" and not self.second_decoder:
            raise ConfigError(
                "inference_branches=mean needs second_decoder=true, got false. Set one of them."
            )

    @property
    def cross(self) -> bool:
        """Whether any term ties the two tasks."""
        return self.regression_task and max(self.weight_cross_supervision, self.weight_cross_consistency) > 0

    @property
    def uses_s2r(self) -> bool:
        """Whether segmentations are transformed."""
        return self.cross_direction != "r2s"

    @property
    def uses_r2s(self) -> bool:
        """Whether distance maps are transformed."""
        return self.cross_direction != "s2r"

    @property
    def consistency(self) -> bool:
        """Whether there is a consistency term."""
        within = self.second_decoder and self.weight_intra_consistency > 0
        return within or (self.regression_task and self.weight_cross_consistency > 0)


class Distances(NamedTuple):
    """What T_s2r makes.

    Attributes:
        labels: R of the labels (B, K, *spatial).
        known: where it is known beside ignored voxels, the same shape; ``None`` for everywhere.
        of_y: T_s2r of the predictions (A, N, K, *spatial); ``None`` where no term wants it.
    """

    labels: Tensor
    known: Tensor | None
    of_y: Tensor | None


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
        self.spacing = tuple(spacing) if config.distance_form == "exact" else None  # the other counts voxels
        self.batch_dice = batch_dice
        self.uses_unlabeled = config.consistency or config.weight_pseudo > 0
        _check_kernel(config, len(spacing))
        self.to_distance = partial(
            seg_to_distance,
            scale=config.distance_scale,
            spacing=self.spacing,
            form=config.distance_form,
            kernel_size=config.distance_kernel_size,
            h=config.distance_h,
            band=config.distance_band,
        )
        # What happens inside the one call of the network
        self.run = partial(run_branches, second=config.second_decoder, regression=config.regression_task)

    def losses(self, network: nn.Module, batch: Batch, progress: float, generator: torch.Generator) -> Terms:
        """Terms of eqs. 6, 7, 9, 10 and 14; watched: ``confident``, ``confident_foreground``, ``agreement``.

        ``confident`` is the share of voxels that all outputs agree on, ``confident_foreground`` the share
        that all call foreground among those that any does, ``agreement`` the Dice of the two tasks.
        """
        config, images = self.config, batch.labeled
        if self.uses_unlabeled:
            images = torch.cat([images, _required(batch.unlabeled)])
        branches = network(images, self.run)
        terms: Terms = {"segmentation": (self._segmentation(branches, batch), config.weight_sup_con)}  # eq. 6
        with torch.autocast(images.device.type, enabled=False):
            maps = make_maps(branches, self.space, batch.tasks)
            if maps.r is not None and (config.weight_regression > 0 or config.cross):
                distances = self._distances(maps.y, batch.targets[0])
                terms |= self._supervision(maps.r, distances, batch)
                terms |= self._cross_consistency(maps, distances)
            terms |= self._intra_consistency(maps)
            votes, confident = vote(maps, self.space)
            if config.weight_pseudo > 0:
                beta = config.weight_pseudo * gaussian_ramp(progress, config.ramp_length)
                terms["pseudo"] = (self._pseudo(maps, confident, len(batch.labeled)), beta)  # eq. 14
            return terms | watched(maps, votes, confident)

    # The terms

    def _segmentation(self, branches: list[Branch], batch: Batch) -> Tensor:
        """L_seg of both branches (eq. 6): nnU-Net's loss.

        Both get nnU-Net's deep supervision: what makes the branches differ is to be their upsampling, and the
        second has half of the votes. It costs 1x1 convolutions at the lower resolutions.
        """
        count, total = len(batch.labeled), torch.zeros((), device=batch.labeled.device)
        for branch in branches:
            outputs = [o[:count] for o in branch.segmentation]
            if self.deep_supervision:
                total = total + self._own_labels_loss(outputs, batch.targets, batch.tasks)
            else:
                total = total + self._own_labels_loss(outputs[0], batch.targets[0], batch.tasks)
        return total

    def _own_labels_loss(self, outputs: Outputs, targets: Outputs, tasks: Tensor) -> Tensor:
        return partial_label_loss(self.loss, outputs, targets, tasks, self.space)

    def _supervision(self, r: Tensor, distances: Distances, batch: Batch) -> Terms:
        """L_mse of eq. 6 and, across the tasks, eq. 7."""
        config, count, terms = self.config, len(batch.labeled), {}
        weight = mean_weight(asked_maps(self.space, batch.tasks, count))
        known = distances.known

        def against_labels(maps: Tensor) -> Tensor:
            return _total([channel_mse(m[:count], distances.labels, weight, known) for m in maps])

        if config.weight_regression > 0:
            terms["regression"] = (against_labels(r), config.weight_sup_con * config.weight_regression)
        cross = config.weight_sup_con * config.weight_cross_supervision
        if cross > 0 and distances.of_y is not None:
            terms["cross_regression"] = (against_labels(distances.of_y), cross)
        if cross > 0 and config.uses_r2s:
            terms["cross_segmentation"] = (self._segmentation_of_r(r[:, :count], batch), cross)
        return terms

    def _segmentation_of_r(self, r: Tensor, batch: Batch) -> Tensor:
        """L_seg(T_r2s(R), Y) (eq. 7), binary for each map; the cross entropy takes k R itself."""
        target = batch.targets[0]
        asked = asked_maps(self.space, batch.tasks, len(target))
        sample, prompt = asked.nonzero(as_tuple=True)
        truth, valid = self.space.binary(target, sample, prompt), self.space.valid(target)
        return _total(
            [
                binary_dice_ce(
                    distance_logits(branch[sample, prompt], self.config.distance_k),
                    truth,
                    mean_weight(asked)[sample, prompt],
                    None if valid is None else valid[sample],
                    prompt if self.batch_dice else None,
                )
                for branch in r
            ]
        )

    def _intra_consistency(self, maps: Maps) -> Terms:
        """The same task in both branches (eq. 9)."""
        weight = self.config.weight_sup_con * self.config.weight_intra_consistency
        if weight == 0 or len(maps.y) == 1:
            return {}
        mean = mean_weight(maps.asked)
        terms = {"consistency_segmentation": (channel_mse(maps.y[0], maps.y[1], mean), weight)}
        if maps.r is not None:
            terms["consistency_regression"] = (channel_mse(maps.r[0], maps.r[1], mean), weight)
        return terms

    def _cross_consistency(self, maps: Maps, distances: Distances) -> Terms:
        """Both tasks of the same branch (eq. 10)."""
        config, terms = self.config, {}
        weight = config.weight_sup_con * config.weight_cross_consistency
        if weight == 0 or maps.r is None:
            return {}
        mean = mean_weight(maps.asked)

        def agreement(ones: Tensor, others: Tensor) -> Tensor:
            return _total([channel_mse(a, b, mean) for a, b in zip(ones, others, strict=True)])

        if distances.of_y is not None:
            terms["consistency_s2r"] = (agreement(distances.of_y, maps.r), weight)
        if config.uses_r2s:
            terms["consistency_r2s"] = (agreement(distance_to_seg(maps.r, config.distance_k), maps.y), weight)
        return terms

    def _pseudo(self, maps: Maps, confident: Tensor, count: int) -> Tensor:
        """L_pse (eqs. 12 and 14), on all images or those after the first ``count``."""
        first = count if self.config.pseudo_on == "unlabeled" else 0
        loss = region_pseudo_loss if self.space.table.has_regions else class_pseudo_loss
        return loss(maps.log[:, first:], confident[first:])

    # What the terms are made of

    def _distances(self, y: Tensor, target: Tensor) -> Distances:
        """All transforms of a step in one batch (eq. 5); one of a prediction serves two losses."""
        count, prompts = len(target), self.space.num_prompts
        index = torch.arange(count * prompts, device=target.device)
        truth = self.space.binary(target, index // prompts, index % prompts).unflatten(0, (count, prompts))
        valid = self.space.valid(target)
        known = None if valid is None else known_distance(truth & valid[:, None], ~valid, self.spacing)
        if not (self.config.cross and self.config.uses_s2r):
            return Distances(self.to_distance(truth.to(y.dtype)), known, None)
        both = self.to_distance(torch.cat([y.flatten(0, 1), truth.to(y.dtype)]))
        return Distances(both[-count:], known, both[:-count].view_as(y))

    # Pictures

    def preview(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[list[Panel]]:
        """A labelled and, if there is one, an unlabelled sample through the first branch.

        Of several classes the maps of the one with most foreground are shown.
        """
        images = torch.cat([x[:1] for x in (batch.labeled, batch.unlabeled) if x is not None])
        branches = network(images, self.run)
        maps = make_maps(branches, self.space, batch.tasks[:1])
        labels = label_map(self.space, self.space.hard(branches[0].segmentation[0]))
        _, confident = vote(maps, self.space)
        strips = []
        for row in range(len(images)):
            k = int(maps.y[0, row].flatten(1).sum(1).argmax())
            strip = [Panel("labelled" if row == 0 else "unlabelled", images[row, 0])]
            if row == 0:
                strip.append(Panel("truth", label_map(self.space, batch.targets[0][:1])[0], "labels"))
            strip.append(Panel("segmentation", labels[row], "labels"))
            if maps.r is not None:
                y, r = maps.y[:1, row, k : k + 1], maps.r[0, row, k]
                strip += [
                    Panel("distance", r, "signed"),
                    Panel("T_s2r", self.to_distance(y)[0, 0], "signed"),
                    Panel("T_r2s", distance_to_seg(r, self.config.distance_k), "unit"),
                ]
            mask = confident[row, k] if self.space.table.has_regions else confident[row]
            strips.append([*strip, Panel("confident", mask.float(), "unit")])
        return strips


def _total(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


def _check_kernel(config: DBiSLConfig, dims: int) -> None:
    if config.distance_form != "convolution":
        return
    total = off_centre_sum(config.distance_kernel_size, config.distance_h, dims)
    if total >= 1:
        raise ConfigError(
            f"distance_h={config.distance_h} is too large for distance_form=convolution with a kernel of "
            f"{config.distance_kernel_size} in {dims}D: the neighbours' weights add up to {total:.3f}, "
            "expected less than 1, or holes of one voxel vanish. Take a smaller distance_h, 0.35 say."
        )


def _required(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("DBiSL needs unlabelled images in every batch.")
    return tensor
