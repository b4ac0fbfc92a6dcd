"""VerSemi (Zeng et al., IEEE TMI 2025) and UniSeMi, its form without the auxiliary constraint.

One network for many tasks: a prompt k tells the dynamic head what to segment. Prompts 1..K are the foreground
classes of all tasks; prompt K+1 is the synthetic task "any foreground", which teaches from unlabelled images
of unknown task. Equation numbers are those of the TMI paper. All mixes share one pass through the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nnunet_ssl.config import check_range
from nnunet_ssl.losses.consistency import soft_dice_distance
from nnunet_ssl.losses.dice_ce import binary_dice_ce
from nnunet_ssl.masks import MaskKind, RatioOf, mix, mix_targets, sample_masks
from nnunet_ssl.methods.base import Batch, Method, Terms
from nnunet_ssl.nn.dynamic_head import prompted_log_odds
from nnunet_ssl.nn.prompted_unet import Prompted
from nnunet_ssl.ramps import gaussian_ramp
from nnunet_ssl.targets import LabelSpace, Pairs, deeply_supervised, mean_weight, prompted_loss


@dataclass(frozen=True)
class UniSeMiConfig:
    """Options of UniSeMi; the defaults are the paper's unless a reason is given.

    Attributes:
        mask: shape of the pasted region: ``box`` (the paper's zero-centered mask), ``random`` cubes or
            ``slice``.
        mask_ratio_min: least share of the patch that is pasted.
        mask_ratio_max: largest share of the patch that is pasted.
        mask_ratio_of: share of the ``volume`` (the paper's text) or of each ``side`` (the official code).
        prompt: ``one_hot``, ``soft`` (learned vectors) or ``text`` (vectors from ``prompt_file``), Table
            VIII.
        prompt_file: ``.npz`` with one vector per label name, for ``prompt=text``.
        weight_synthetic: weight of the synthetic task on labelled mixes.
        weight_unlabeled: weight of L_unsup (eq. 7).
        ramp_length: share of training over which L_unsup ramps up, 0 for none. The official code trains a
            first stage without it; in one joint stage it would start before the prompts mean anything.
        detach_agg: keep the gradient of L_unsup from the aggregated prediction.
        task_info: use the task of unlabelled images (section V-D).
    """

    mask: MaskKind = "box"
    mask_ratio_min: float = 0.3
    mask_ratio_max: float = 0.7
    mask_ratio_of: RatioOf = "volume"
    prompt: Literal["one_hot", "soft", "text"] = "one_hot"
    prompt_file: str | None = None
    weight_synthetic: float = 1.0
    weight_unlabeled: float = 1.0
    ramp_length: float = 0.4
    detach_agg: bool = False
    task_info: bool = False

    def __post_init__(self) -> None:
        check_range("mask_ratio_min", self.mask_ratio_min, low=0, high=self.mask_ratio_max)
        check_range("mask_ratio_max", self.mask_ratio_max, low=self.mask_ratio_min, high=1)
        check_range("weight_synthetic", self.weight_synthetic, low=0)
        check_range("weight_unlabeled", self.weight_unlabeled, low=0)
        check_range("ramp_length", self.ramp_length, low=0, high=1)


@dataclass(frozen=True)
class VerSemiConfig(UniSeMiConfig):
    """Options of VerSemi: those of UniSeMi and the auxiliary constraint.

    Attributes:
        weight_auxiliary: weight of L_aux (eq. 4).
    """

    weight_auxiliary: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("weight_auxiliary", self.weight_auxiliary, low=0)


class VerSemi(Method):
    """L = L_lab + L_syn + L_aux + ramp * L_unsup.

    Args:
        config: the options.
        space: tasks and prompts of the dataset.
        scale_weights: nnU-Net's deep supervision weights, full resolution first; ``(1,)`` without.
        batch_dice: one Dice per prompt over the batch instead of one per sample, as the plans say.
    """

    least_batch = 2

    def __init__(
        self,
        config: VerSemiConfig,
        space: LabelSpace,
        scale_weights: Sequence[float],
        batch_dice: bool = False,
    ) -> None:
        self.config = config
        self.space = space
        self.scale_weights = tuple(scale_weights)
        self.batch_dice = batch_dice
        self.uses_unlabeled = config.weight_unlabeled > 0
        self.uses_mixes = config.weight_synthetic > 0 or config.weight_auxiliary > 0

    @classmethod
    def without_auxiliary(
        cls,
        config: UniSeMiConfig,
        space: LabelSpace,
        scale_weights: Sequence[float],
        batch_dice: bool = False,
    ) -> VerSemi:
        """UniSeMi: the same method without L_aux."""
        return cls(VerSemiConfig(**asdict(config), weight_auxiliary=0.0), space, scale_weights, batch_dice)

    def losses(self, network: nn.Module, batch: Batch, progress: float, generator: torch.Generator) -> Terms:
        """Terms ``labeled``, ``synthetic``, ``auxiliary`` and ``unlabeled``, those whose weight is not 0."""
        config, images, terms = self.config, [batch.labeled], {}
        if self.uses_mixes:  # eq. 2: CutMix of pairs of labelled samples
            partner = partners(batch.tasks)
            mask = self._masks(batch.labeled, generator)
            images.append(mix(batch.labeled, batch.labeled[partner], mask))
            mixed_targets = mix_targets(batch.targets, partner, mask)
        if self.uses_unlabeled:  # eq. 6: CutMix of pairs of unlabelled samples
            sources = batch.need_unlabeled()
            unlabeled_partner = _rolled(len(sources), sources.device)
            unlabeled_mask = self._masks(sources, generator)
            images.append(mix(sources, sources[unlabeled_partner], unlabeled_mask))
            if config.task_info:
                images.append(sources)

        parts = iter(_split(network(torch.cat(images), prompted=True), [len(i) for i in images]))

        own = self.space.own_pairs(batch.tasks)
        terms["labeled"] = (self._dice_ce(next(parts), batch.targets, own), 1.0)  # eq. 3
        if self.uses_mixes:
            mixed = next(parts)
            if config.weight_synthetic > 0:
                terms["synthetic"] = (self._synthetic(mixed, mixed_targets), config.weight_synthetic)
            if config.weight_auxiliary > 0:  # eq. 4
                both = self._prompts_of_both(batch.tasks, partner)
                terms["auxiliary"] = (self._dice_ce(mixed, mixed_targets, both), config.weight_auxiliary)
        if self.uses_unlabeled:  # eq. 6-7
            mixed = next(parts)
            if config.task_info:
                aggregated, any_foreground = self._informed(
                    mixed, next(parts), batch.need_tasks(), unlabeled_partner, unlabeled_mask
                )
            else:
                aggregated, any_foreground = self._aggregated(mixed)
            if config.detach_agg:
                aggregated = aggregated.detach()
            weight = config.weight_unlabeled * gaussian_ramp(progress, config.ramp_length)
            terms["unlabeled"] = (soft_dice_distance(aggregated, any_foreground), weight)
        return terms

    def pseudo_labels(
        self, network: nn.Module, images: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        """Under all prompts, then under the synthetic task's: P_agg and P_{K+1} of eq. 6 on whole images."""
        output: Prompted = network(images, prompted=True)
        log_odds = prompted_log_odds(output.features[0], output.filters)
        own, any_foreground = log_odds[:, :-1], log_odds[:, -1:]
        if not self.space.table.has_regions:
            own = torch.cat([torch.zeros_like(any_foreground), own], dim=1)
        return [own, any_foreground]

    # The terms

    def _dice_ce(self, output: Prompted, targets: list[Tensor], pairs: Pairs) -> Tensor:
        """Dice + CE of samples under prompts, with deep supervision (eqs. 3 and 4)."""

        def loss(features: Tensor, target: Tensor) -> Tensor:
            log_odds = _log_odds_of_pairs(features, output.filters, pairs)
            return prompted_loss(log_odds, target, pairs, self.space, self.batch_dice)

        return deeply_supervised(loss, output.features, targets, self.scale_weights)

    def _synthetic(self, output: Prompted, targets: list[Tensor]) -> Tensor:
        """Dice + CE of the synthetic task: prompt K+1 against the union of the foreground (section III-B)."""
        weight = torch.full((len(output.filters),), 1 / len(output.filters), device=output.filters.device)
        group = torch.zeros(len(weight), dtype=torch.long, device=weight.device) if self.batch_dice else None

        def loss(features: Tensor, target: Tensor) -> Tensor:
            log_odds = prompted_log_odds(features, output.filters[:, -1:])[:, 0]
            foreground, valid = self.space.foreground(target), self.space.valid(target)
            return binary_dice_ce(log_odds, foreground, weight, valid, group)

        return deeply_supervised(loss, output.features, targets, self.scale_weights)

    def _aggregated(self, mixed: Prompted) -> tuple[Tensor, Tensor]:
        """P_agg, the voxelwise maximum over prompts 1..K, and P_{K+1} (eq. 6)."""
        probability = torch.sigmoid(prompted_log_odds(mixed.features[0], mixed.filters).float())
        return probability[:, :-1].amax(1), probability[:, -1]

    def _informed(
        self, mixed: Prompted, sources: Prompted, tasks: Tensor, partner: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Section V-D: predict each source under its own task's prompts, mix predictions like images."""
        log_odds = prompted_log_odds(sources.features[0], sources.filters[:, :-1]).float()
        own = self.space.own_prompts(tasks)
        probability = torch.sigmoid(log_odds) * own.view(*own.shape, *[1] * (log_odds.ndim - 2))
        foreground = probability.amax(1)
        any_foreground = torch.sigmoid(
            prompted_log_odds(mixed.features[0], mixed.filters[:, -1:])[:, 0].float()
        )
        return mix(foreground, foreground[partner], mask[:, 0]), any_foreground

    # Pairs of samples and prompts

    def _prompts_of_both(self, tasks: Tensor, partner: Tensor) -> Pairs:
        """Each mix under the prompts of the task on either side, once if it is the same (eq. 4).

        The sum over k in (i, j) is the paper's; within a task its prompts are averaged, as in
        ``own_pairs``. The target of a prompt needs no cutting: label values are unique, so the mixed map
        holds k's part only under k.
        """
        mine = mean_weight(self.space.own_prompts(tasks))
        return Pairs.of(torch.maximum(mine, mine[partner]))

    def _masks(self, images: Tensor, generator: torch.Generator) -> Tensor:
        config = self.config
        ratio = (config.mask_ratio_min, config.mask_ratio_max)
        masks = sample_masks(
            config.mask, len(images), images.shape[2:], ratio, generator, config.mask_ratio_of
        )
        return masks.to(images.device, non_blocking=True)


def partners(tasks: Tensor) -> Tensor:
    """With whom each labelled sample is mixed: (B,) a permutation that pairs different tasks where it can.

    Samples are ordered by task and moved on by half the batch, so two samples of one task meet only where
    that task fills more than half of it. A batch of one is mixed with itself, which changes nothing.
    """
    order = tasks.argsort(stable=True)
    return torch.empty_like(order).scatter(0, order, order.roll(-max(len(tasks) // 2, 1)))


def _rolled(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device).roll(-max(count // 2, 1))


def _log_odds_of_pairs(features: Tensor, filters: Tensor, pairs: Pairs) -> Tensor:
    """(P, *spatial). Where every sample is asked all its prompts, features are not copied."""
    if len(pairs.sample) == features.shape[0] * (filters.shape[1] - 1):
        return prompted_log_odds(features, filters[:, :-1]).flatten(0, 1)
    return prompted_log_odds(features[pairs.sample], filters[pairs.sample, pairs.prompt][:, None])[:, 0]


def _split(output: Prompted, sizes: list[int]) -> list[Prompted]:
    """Cut one pass along the batch."""
    features = [f.split(sizes) for f in output.features]
    filters = output.filters.split(sizes)
    return [Prompted([f[i] for f in features], filters[i]) for i in range(len(sizes))]
