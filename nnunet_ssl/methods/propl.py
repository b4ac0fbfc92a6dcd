"""ProPL (Chen et al., AAAI 2026): a sentence says what to segment, and calibrated pseudo-labels teach.

One shared encoder and two decoders that sentences prompt. sd learns from truth; its predictions under
perturbed features, damped where they disagree (UPLC), are what pd learns from. Equation numbers are those of
the paper.

Shapes: B labelled and U unlabelled samples, P pairs of a sample and one of its task's prompts, N perturbed
passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nnunet_ssl.config import check_range
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.losses.dice_ce import binary_dice_ce
from nnunet_ssl.losses.uplc import Calibration, Dropout, calibrate, sample_dropout
from nnunet_ssl.methods.base import Batch, Method, Panel, Terms
from nnunet_ssl.methods.propl_passes import (
    Passes,
    all_passes,
    own_pairs,
    plain_passes,
    supervised_pass,
    unlabeled_passes,
)
from nnunet_ssl.nn.propl_unet import NEVER, PSEUDO, SUPERVISED, Bottleneck
from nnunet_ssl.ramps import gaussian_ramp
from nnunet_ssl.targets import LabelSpace, Pairs, deeply_supervised, prompted_loss


@dataclass(frozen=True)
class ProPLConfig:
    """Options of ProPL; the defaults are the paper's unless a reason is given.

    The paper trains with initial_lr=1e-3 and weight_decay=1e-5; unset, these are nnU-Net's. Its momentum of
    0.9 is no option here: SGD has nnU-Net's, 0.99.

    Attributes:
        perturbations: N, the perturbed passes of sd; 0 takes sd's plain prediction (no UPLC, Tables 4 to 6),
            and one has no variance that could calibrate it.
        perturbation_dropout: share of the coarsest features that a perturbation drops.
        perturbation_kind: drop single ``element``s, or whole ``channel``s of a sample, which the next
            convolution averages away less. The variance is small either way (benchmarks/RESULTS.md).
        calibration: what damps the mean prediction: exp(-``variance``) (eq. 5), exp(-variance^2)
            (``squared_variance``, official code) or nothing (``off``).
        pseudo_threshold: make pseudo-labels hard at this value (official code: 0.5); soft by default.
        dropout_labeled: perturb the labelled passes of sd, too (official code).
        weight_unlabeled: weight of pd's loss (official code: 6); 0 leaves pd out, so sd predicts: the
            supervised prompted network.
        ramp_length: share of training over which pd's loss ramps up, 0 for none. The paper names no ramp;
            before sd has learnt anything its pseudo-labels are noise.
        propl_decoder: which decoder predicts: ``pd`` (official code; the paper is silent), ``sd``, or the
            ``mean`` of both.
        propl_prompts: ``text`` (sentences embedded by nnUNetv2_ssl embed-prompts), ``learned`` vectors,
            ``auto`` (text where the dataset has embedded sentences, else learned) or ``off`` (no prompting,
            Tables 4 to 6).
        prompted_voxels: decoder stages of at most so many voxels are prompted, the coarsest always.
        stage_text_tokens: text tokens of the prompted stages, the coarsest first; the last number holds for
            all others.
        timm_encoder: name of a timm ConvNeXt in place of the planned encoder (2D only), such as
            convnext_tiny, the paper's.
        timm_weights: file with its pretrained weights, read when training starts.
    """

    # Pseudo-labels are made under the sample's own prompts. The trainer asks a config for this.
    task_info: ClassVar[bool] = True
    # What can be changed of a trained model.
    inference_options: ClassVar[tuple[str, ...]] = ("propl_decoder",)

    perturbations: int = 2
    perturbation_dropout: float = 0.3
    perturbation_kind: Dropout = "element"
    calibration: Calibration = "variance"
    pseudo_threshold: float | None = None
    dropout_labeled: bool = False
    weight_unlabeled: float = 1.0
    ramp_length: float = 0.4
    propl_decoder: Literal["pd", "sd", "mean"] = "pd"
    propl_prompts: Literal["auto", "text", "learned", "off"] = "auto"
    prompted_voxels: int = 1024
    stage_text_tokens: tuple[int, ...] = (24, 12, 9)
    timm_encoder: str | None = None
    timm_weights: str | None = None

    def __post_init__(self) -> None:
        check_range("perturbations", self.perturbations, low=0)
        check_range("perturbation_dropout", self.perturbation_dropout, low=0, high=0.99)
        if self.pseudo_threshold is not None:
            check_range("pseudo_threshold", self.pseudo_threshold, low=0, high=1)
        check_range("weight_unlabeled", self.weight_unlabeled, low=0)
        check_range("ramp_length", self.ramp_length, low=0, high=1)
        check_range("prompted_voxels", self.prompted_voxels, low=1)
        if not self.stage_text_tokens:
            raise ConfigError("Option stage_text_tokens: expected at least one number, got none.")
        check_range("stage_text_tokens", min(self.stage_text_tokens), low=1)
        if self.propl_decoder == "mean" and PSEUDO not in self.decoders:
            raise ConfigError(
                "propl_decoder=mean needs pd, which weight_unlabeled=0 leaves out. Set one of them."
            )
        if self.timm_weights is not None and self.timm_encoder is None:
            raise ConfigError(
                "Option timm_weights: expected timm_encoder beside it, which names the network."
            )

    @property
    def decoders(self) -> tuple[str, ...]:
        """Decoders that are trained."""
        return (SUPERVISED, PSEUDO) if self.weight_unlabeled > 0 else (SUPERVISED,)

    @property
    def inference(self) -> Literal["pd", "sd", "mean"]:
        """Which decoder predicts: sd where it is alone."""
        return self.propl_decoder if PSEUDO in self.decoders else "sd"


class ProPL(Method):
    """L = L_seg(sd, y) + ramp * weight * L_seg(pd, calibrated mean of perturbed sd), L_seg = BCE + Dice.

    Args:
        config: the options.
        space: tasks and prompts of the dataset.
        scale_weights: nnU-Net's deep supervision weights, full resolution first; ``(1,)`` without. They hold
            for sd on truth; pd learns from the full resolution.
        bottleneck: shape of the features that are perturbed.
        batch_dice: one Dice per prompt over the batch instead of one per sample, as the plans say.
    """

    def __init__(
        self,
        config: ProPLConfig,
        space: LabelSpace,
        scale_weights: Sequence[float],
        bottleneck: Bottleneck,
        batch_dice: bool = False,
    ) -> None:
        self.config = config
        self.space = space
        self.scale_weights = tuple(scale_weights)
        self.bottleneck = bottleneck
        self.batch_dice = batch_dice
        self.uses_unlabeled = config.weight_unlabeled > 0

    def losses(self, network: nn.Module, batch: Batch, progress: float, generator: torch.Generator) -> Terms:
        """Terms ``labeled`` and ``unlabeled``; watched: ``uncertainty`` and ``pseudo_foreground``."""
        config = self.config
        pairs = own_pairs(self.space, batch.tasks)
        noise = self._dropout(1, batch.labeled, generator) if config.dropout_labeled else None
        if not self.uses_unlabeled:
            outputs = network(batch.labeled, supervised_pass(pairs, noise, self._deep))
            return {"labeled": (self._supervised(outputs, batch, pairs), 1.0)}
        images, tasks = batch.need_unlabeled(), batch.need_tasks()
        unlabeled_pairs = own_pairs(self.space, tasks)
        perturbations = self._dropout(config.perturbations, images, generator)

        run = all_passes(pairs, noise, unlabeled_pairs, perturbations, self._deep)
        passes: Passes = network(torch.cat([batch.labeled, images]), run)

        target = calibrate(passes.mean, passes.variance, config.calibration, config.pseudo_threshold)
        group = unlabeled_pairs.prompt if self.batch_dice else None
        unlabeled = binary_dice_ce(passes.pseudo, target, unlabeled_pairs.weight, group=group)
        return {
            "labeled": (self._supervised(passes.labeled, batch, pairs), 1.0),
            "unlabeled": (unlabeled, config.weight_unlabeled * gaussian_ramp(progress, config.ramp_length)),
            "uncertainty": (passes.variance.mean(), 0.0),
            "pseudo_foreground": (target.mean(), 0.0),
        }

    def pseudo_labels(
        self, network: nn.Module, images: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        """The plain predictions of sd, then of pd, each image under its own task's prompts."""
        pairs, prompts = own_pairs(self.space, tasks), self.space.num_prompts
        views = []
        for log_odds in network(images, plain_passes(pairs, self.config.decoders)):
            view = log_odds.new_full((len(images), prompts, *images.shape[2:]), NEVER)
            view[pairs.sample, pairs.prompt] = log_odds
            classes = not self.space.table.has_regions
            views.append(torch.cat([torch.zeros_like(view[:, :1]), view], dim=1) if classes else view)
        return views

    def preview(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[list[Panel]]:
        """Image, mean pseudo-label, uncertainty, target and pd's prediction of unlabelled pairs."""
        if not self.uses_unlabeled:
            return []
        images, tasks = batch.need_unlabeled(), batch.need_tasks()
        pairs = own_pairs(self.space, tasks)
        perturbations = self._dropout(self.config.perturbations, images, generator)
        mean, variance, pseudo = network(images, unlabeled_passes(pairs, perturbations))
        target = calibrate(mean, variance, self.config.calibration, self.config.pseudo_threshold)
        shown = _one_of_each_prompt(pairs.prompt)
        return [
            [
                Panel(
                    f"image: {self.space.table.prompts[int(pairs.prompt[p])].label}?",
                    images[pairs.sample[p], 0],
                ),
                Panel("mean of sd", mean[p], "unit"),
                Panel("4 x uncertainty", 4 * variance[p], "unit"),  # at most 1
                Panel("target of pd", target[p], "unit"),
                Panel("pd", torch.sigmoid(pseudo[p].float()), "unit"),
            ]
            for p in shown
        ]

    @property
    def _deep(self) -> bool:
        return len(self.scale_weights) > 1

    def _supervised(self, outputs: list[Tensor], batch: Batch, pairs: Pairs) -> Tensor:
        """BCE + Dice of sd against truth, with deep supervision."""
        loss = partial(prompted_loss, pairs=pairs, space=self.space, batch_dice=self.batch_dice)
        return deeply_supervised(loss, outputs, batch.targets, self.scale_weights)

    def _dropout(self, passes: int, images: Tensor, generator: torch.Generator) -> Tensor:
        """Factors (passes, samples, C, *spatial) of the coarsest features."""
        config, shape = self.config, self.bottleneck.shape(images.shape[2:])
        kind, share = config.perturbation_kind, config.perturbation_dropout
        factors = sample_dropout(kind, passes, len(images), shape, share, generator)
        return factors.to(images.device, non_blocking=True)


def _one_of_each_prompt(prompts: Tensor) -> list[int]:
    """The first pair of each prompt, of six at most."""
    first: dict[int, int] = {}
    for p, k in enumerate(prompts.tolist()):
        first.setdefault(k, p)
    return list(first.values())[:6]
