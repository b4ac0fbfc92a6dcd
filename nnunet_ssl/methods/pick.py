"""PICK (Zeng, Lu, Xie, Xia, IJCV 2025): predict what is a target, mask it, rebuild it, segment it again.

One encoder and three decoders. The primary decoder, which alone predicts after training, is taught by truth
only; unlabelled images teach the encoder, through the MIM decoder, which rebuilds what was masked, and the
auxiliary decoder, which segments the rebuilt image. Section and equation numbers are those of the paper.

Shapes: B labelled and U unlabelled samples, N = B + U, the labelled ones first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_ssl.config import check_range
from nnunet_ssl.losses.reconstruction import masked_l1
from nnunet_ssl.masks import cube_grid_masks, leave_whole, mix, mix_targets, same_task_partners, sample_masks
from nnunet_ssl.methods.base import Batch, Method, Panel, Terms
from nnunet_ssl.nn.multi_decoder import MultiDecoderUNet
from nnunet_ssl.ramps import gaussian_ramp
from nnunet_ssl.targets import LabelSpace, Outputs, SegmentationLoss, full_resolution, partial_label_loss

MIM, AUXILIARY = "mim", "auxiliary"  # names of the decoders that only training needs


@dataclass(frozen=True)
class PICKConfig:
    """Options of PICK; the defaults are the paper's unless a reason is given.

    Attributes:
        warmup: share of training on labelled images alone (section 3.3). The paper names no length; the
            official code takes 5000 iterations and Table 9 counts 10000, which makes a half if those hold
            the warm-up and a third if not.
        weight_mim: lambda (eqs. 10 and 11); 0 leaves the MIM decoder out. The paper's best: 0.2 for left
            atrium and AMOS, 1.0 for lung tumour and pancreas, 1.2 for M&Ms; large targets want less.
        weight_auxiliary: weight of L_aux; 0 leaves the auxiliary decoder out. Without the MIM decoder it
            segments the masked image (Table 6, row 3).
        weight_unlabeled: weight of L_unsup (eq. 12).
        ramp_length: share of training after the warm-up over which L_unsup ramps up, 0 for none: the paper
            has a warm-up instead.
        pick_mask: what is masked (Table 7): ``attentive``, the predicted foreground; ``background``, the
            rest; ``random_cubes`` of edge 16 (v1); ``random_block``, one box (v2).
        pick_mask_share: share that the random strategies mask.
        grad_through_reconstruction: let L_aux teach the MIM decoder, too. The paper's text wants
            reconstruction to serve segmentation; the official code detaches.
        cutmix_probability: share of labelled samples that get a box from another one of the same task, of
            any size, as augmentation (section 4.2). Half of them, so that whole images, which prediction
            sees, stay in training.
    """

    warmup: float = 0.3
    weight_mim: float = 0.2
    weight_auxiliary: float = 1.0
    weight_unlabeled: float = 1.0
    ramp_length: float = 0.0
    pick_mask: Literal["attentive", "background", "random_cubes", "random_block"] = "attentive"
    pick_mask_share: float = 0.6
    grad_through_reconstruction: bool = False
    cutmix_probability: float = 0.5

    def __post_init__(self) -> None:
        for name in ("weight_mim", "weight_auxiliary", "weight_unlabeled"):
            check_range(name, getattr(self, name), low=0)
        for name in ("warmup", "ramp_length", "pick_mask_share", "cutmix_probability"):
            check_range(name, getattr(self, name), low=0, high=1)

    @property
    def decoders(self) -> tuple[str, ...]:
        """Names of the decoders beside the primary one."""
        wanted = {MIM: self.weight_mim > 0, AUXILIARY: self.weight_auxiliary > 0}
        return tuple(name for name, on in wanted.items() if on)


class Chain(NamedTuple):
    """What the chain of passes gives; of all N samples unless said otherwise.

    Attributes:
        primary: primary decoder's outputs of the B labelled samples.
        pseudo: pseudo-labels in nnU-Net's target form, without gradient.
        hidden: (N, 1, *spatial) bool, what was masked.
        masked: x_mask.
        rebuilt: MIM decoder's output inside the mask, x outside; ``None`` without that decoder.
        auxiliary: auxiliary decoder's outputs; ``None`` without that decoder.
    """

    primary: Outputs
    pseudo: Tensor
    hidden: Tensor
    masked: Tensor
    rebuilt: Tensor | None
    auxiliary: Outputs | None


class PICK(Method):
    """L = L_sup + L_unsup (eq. 12), after a warm-up with L_sup alone.

    Args:
        config: the options.
        loss: nnU-Net's loss, deep supervision included; it judges labelled samples.
        full_loss: nnU-Net's loss of the full resolution; it judges unlabelled samples.
        space: the tasks of the dataset.
        deep_supervision: whether ``loss`` takes lists.
    """

    def __init__(
        self,
        config: PICKConfig,
        loss: SegmentationLoss,
        full_loss: SegmentationLoss,
        space: LabelSpace,
        deep_supervision: bool,
    ) -> None:
        self.config = config
        self.loss = loss
        self.full_loss = full_loss
        self.space = space
        self.deep_supervision = deep_supervision
        self.uses_unlabeled = bool(config.decoders) and config.weight_unlabeled > 0 and config.warmup < 1

    def losses(self, network: nn.Module, batch: Batch, progress: float, generator: torch.Generator) -> Terms:
        """Terms ``primary``, ``mim_*`` and ``aux_*``; watched: ``empty_*`` and ``foreground_*``.

        ``empty_*`` is the share of samples whose pseudo-label is empty, ``foreground_*`` its share of voxels.
        """
        config = self.config
        labeled, targets = self._cutmix(batch, generator)
        if not config.decoders:
            return {"primary": (self._truth_loss(network(labeled), targets, batch.tasks), 1.0)}
        count, images = len(labeled), labeled
        warm = not self.uses_unlabeled or progress < config.warmup  # section 3.3
        if not warm:
            images = torch.cat([labeled, batch.need_unlabeled()])
        chain = network(images, partial(self.run, count=count, drawn=self._draw(images, generator)))

        known, unknown = slice(0, count), slice(count, None)
        terms = {"primary": (self._truth_loss(chain.primary, targets, batch.tasks), 1.0)}  # eq. 11
        if chain.rebuilt is not None:
            terms["mim_labeled"] = (self._mim_loss(chain, images, known), config.weight_mim)
        if chain.auxiliary is not None:
            aux = self._truth_loss(_rows(chain.auxiliary, known), targets, batch.tasks)
            terms["aux_labeled"] = (aux, config.weight_auxiliary)
        watched = self._watch(chain.pseudo, known, "labeled")
        if warm:
            return terms | watched
        weight = config.weight_unlabeled * gaussian_ramp(progress - config.warmup, config.ramp_length)
        if chain.rebuilt is not None:  # eq. 10
            terms["mim_unlabeled"] = (self._mim_loss(chain, images, unknown), weight * config.weight_mim)
        if chain.auxiliary is not None:  # eq. 9
            aux = self.full_loss(full_resolution(chain.auxiliary)[unknown], chain.pseudo[unknown])
            terms["aux_unlabeled"] = (aux, weight * config.weight_auxiliary)
        return terms | watched | self._watch(chain.pseudo, unknown, "unlabeled")

    # Predict, mask, rebuild, segment: inside one call of the network

    def run(self, parts: MultiDecoderUNet, images: Tensor, count: int, drawn: Tensor | None) -> Chain:
        """All passes of an update (sections 3.3 and 3.4).

        Args:
            parts: encoder and decoders.
            images: (N, C, *spatial).
            count: number B of labelled images among them, the first ones.
            drawn: (N, 1, *spatial) bool, masks of the random strategies; ``None`` for the others.
        """
        primary, pseudo = predict(parts, images, count, self.space)  # eqs. 1 and 5
        hidden = self._hidden(pseudo) if drawn is None else drawn
        masked = torch.where(hidden, 0.0, images)  # eqs. 2 and 6; 0 in normalised units
        rebuilt = auxiliary = None
        seen = masked
        if MIM in self.config.decoders:
            decoded = parts.extra(MIM)(parts.encoder(masked))  # eqs. 3 and 7
            # Nothing teaches the MIM decoder what lies outside the mask, so the auxiliary decoder sees the
            # image itself there; eq. 9 writes x_mim.
            seen = rebuilt = torch.where(hidden, decoded.to(images.dtype), images)
            if not self.config.grad_through_reconstruction:
                seen = rebuilt.detach()
        if AUXILIARY in self.config.decoders:
            auxiliary = parts.extra(AUXILIARY)(parts.encoder(seen))  # eqs. 4 and 9
        return Chain(primary, pseudo, hidden, masked, rebuilt, auxiliary)

    def _hidden(self, pseudo: Tensor) -> Tensor:
        foreground = self.space.foreground(pseudo)[:, None]
        return ~foreground if self.config.pick_mask == "background" else foreground

    def _draw(self, images: Tensor, generator: torch.Generator) -> Tensor | None:
        """Masks of the random strategies (Table 7)."""
        kind, share, shape = self.config.pick_mask, self.config.pick_mask_share, images.shape[2:]
        if kind == "random_cubes":
            masks = cube_grid_masks(len(images), shape, share, generator)
        elif kind == "random_block":
            masks = sample_masks("box", len(images), shape, (share, share), generator)
        else:
            return None
        return (masks == 0).to(images.device, non_blocking=True)

    # The terms

    def _truth_loss(self, outputs: Outputs, targets: list[Tensor], tasks: Tensor) -> Tensor:
        """L_seg against truth, each sample on the labels of its own task, deep supervision included."""
        return partial_label_loss(
            self.loss, outputs, targets if self.deep_supervision else targets[0], tasks, self.space
        )

    def _mim_loss(self, chain: Chain, images: Tensor, rows: slice) -> Tensor:
        """L_mim (eq. 8)."""
        assert chain.rebuilt is not None
        return masked_l1(chain.rebuilt[rows], images[rows], chain.hidden[rows])

    def _watch(self, pseudo: Tensor, rows: slice, name: str) -> Terms:
        foreground = self.space.foreground(pseudo[rows]).flatten(1)
        empty, share = (~foreground.any(1)).float().mean(), foreground.float().mean()
        return {f"empty_{name}": (empty, 0.0), f"foreground_{name}": (share, 0.0)}

    def _cutmix(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Labelled images and targets, some with a box of another sample of the same task.

        Of the same task, because elsewhere the labels of the pasted part would be unknown.
        """
        images, probability = batch.labeled, self.config.cutmix_probability
        if probability == 0:
            return images, batch.targets
        masks = sample_masks("box", len(images), images.shape[2:], (0.0, 1.0), generator)
        masks = leave_whole(masks, probability, generator)
        masks, partner = masks.to(images.device, non_blocking=True), same_task_partners(batch.tasks)
        targets = mix_targets(batch.targets, partner, masks)
        return mix(images, images[partner], masks), targets

    # For people

    def pseudo_labels(
        self, network: nn.Module, images: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        """The primary decoder's, then the auxiliary decoder's view of the rebuilt image."""
        if AUXILIARY not in self.config.decoders:
            return super().pseudo_labels(network, images, tasks, generator)
        drawn = self._draw(images, generator)
        chain = network(images, partial(self.run, count=len(images), drawn=drawn))
        assert chain.auxiliary is not None
        return [full_resolution(chain.primary), full_resolution(chain.auxiliary)]

    def preview(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[list[Panel]]:
        """A labelled and, if there is one, an unlabelled sample: image to auxiliary prediction."""
        if not self.config.decoders:
            return []
        images = torch.cat([x[:1] for x in (batch.labeled, batch.unlabeled) if x is not None])
        chain = network(images, partial(self.run, count=1, drawn=self._draw(images, generator)))
        strips = [self._strip(images, chain, row) for row in range(len(images))]
        strips[0].insert(1, Panel("truth", self.space.label_map(batch.targets[0][:1])[0], "labels"))
        return strips

    def _strip(self, images: Tensor, chain: Chain, row: int) -> list[Panel]:
        """Panels of one sample; of several image channels the first is shown."""
        strip = [
            Panel("labelled" if row == 0 else "unlabelled", images[row, 0]),
            Panel("pseudo-label", self.space.label_map(chain.pseudo)[row], "labels"),
            Panel("mask", chain.hidden[row, 0].float(), "unit"),
            Panel("masked", chain.masked[row, 0]),
        ]
        if chain.rebuilt is not None:
            strip.append(Panel("rebuilt", chain.rebuilt[row, 0]))
        if chain.auxiliary is not None:
            segmented = self.space.label_map(self.space.hard(full_resolution(chain.auxiliary)))
            strip.append(Panel("auxiliary", segmented[row], "labels"))
        return strip


def predict(parts: MultiDecoderUNet, images: Tensor, count: int, space: LabelSpace) -> tuple[Outputs, Tensor]:
    """The primary decoder's outputs of labelled images, and pseudo-labels of all (eqs. 1 and 5).

    Unlabelled images take a pass without graph: in one batch with the labelled ones, autograd would keep and
    go back through their activations, too, only to find zeros (benchmarks/pick_cost.py, "joint").
    Pseudo-labels are predicted without dropout; where the plans have some, labelled images are seen twice.
    """
    primary = parts.decoder(parts.encoder(images[:count]))
    dropout = [m for m in parts.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
    rest = images if dropout else images[count:]
    logits = [] if dropout else [full_resolution(primary).detach()]
    if len(rest):
        with torch.no_grad(), _switched_off(dropout):
            logits.append(full_resolution(parts.decoder(parts.encoder(rest))))
    return primary, space.hard(torch.cat(logits))


@contextmanager
def _switched_off(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode for a while."""
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in modules:
            module.train()


def _rows(outputs: Outputs, rows: slice) -> Outputs:
    return outputs[rows] if isinstance(outputs, Tensor) else [o[rows] for o in outputs]
