"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017), as semi-supervised segmentation compares with it.

A student learns from truth and, on unlabelled images, from agreeing with a teacher that sees them under other
noise; the teacher is the moving average of the student and is what remains. It is UA-MT (Yu et al., MICCAI
2019) without uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nnunet_ssl.config import check_range
from nnunet_ssl.methods.base import Batch, Method, Terms
from nnunet_ssl.nn.ema import STUDENT, num_updates, start_other, update_teacher
from nnunet_ssl.nn.multi_decoder import MultiDecoderUNet
from nnunet_ssl.ramps import gaussian_ramp
from nnunet_ssl.targets import LabelSpace, Outputs, SegmentationLoss, full_resolution, partial_label_loss


@dataclass(frozen=True)
class MeanTeacherConfig:
    """Options of Mean Teacher; the defaults are UA-MT's.

    Attributes:
        weight_unlabeled: weight of the consistency at the end of the ramp.
        ramp_length: share of training over which the consistency ramps up, 0 for none.
        ema_decay: decay of the teacher; during the first updates it is 1 - 1/n, an average of all.
        mean_teacher_noise: standard deviation of the noise on normalised images, clipped at twice as much.
    """

    weight_unlabeled: float = 0.1
    ramp_length: float = 1.0
    ema_decay: float = 0.99
    mean_teacher_noise: float = 0.1

    def __post_init__(self) -> None:
        check_range("weight_unlabeled", self.weight_unlabeled, low=0)
        check_range("ramp_length", self.ramp_length, low=0, high=1)
        check_range("ema_decay", self.ema_decay, low=0, high=1)
        check_range("mean_teacher_noise", self.mean_teacher_noise, low=0)


class MeanTeacher(Method):
    """L = L_seg(student(x), y) + w(t) * mean((p_student(u + n) - p_teacher(u + n'))^2).

    Args:
        config: the options.
        loss: nnU-Net's loss, deep supervision included.
        space: the tasks of the dataset; the consistency is on all labels, whatever an image's task.
        deep_supervision: whether ``loss`` takes lists.
    """

    def __init__(
        self, config: MeanTeacherConfig, loss: SegmentationLoss, space: LabelSpace, deep_supervision: bool
    ) -> None:
        self.config = config
        self.loss = loss
        self.space = space
        self.deep_supervision = deep_supervision
        self.uses_unlabeled = config.weight_unlabeled > 0

    def losses(self, network: nn.Module, batch: Batch, progress: float, generator: torch.Generator) -> Terms:
        """Terms ``labeled`` and, unless its weight is 0, ``unlabeled``."""
        start_other(network)
        images, count = batch.labeled, len(batch.labeled)
        for_teacher: Tensor | None = None
        if self.uses_unlabeled:
            sources = batch.need_unlabeled()
            images = torch.cat([images, sources + self._noise(sources, generator)])
            for_teacher = sources + self._noise(sources, generator)

        def run(parts: MultiDecoderUNet, images: Tensor) -> tuple[Outputs, Tensor | None]:
            taught = None
            if for_teacher is not None:
                with torch.no_grad():
                    taught = full_resolution(parts.decoder(parts.encoder(for_teacher)))
            return parts.extra(STUDENT)(images), taught

        outputs, taught = network(images, run)
        labeled = [o[:count] for o in outputs] if self.deep_supervision else outputs[:count]
        targets = batch.targets if self.deep_supervision else batch.targets[0]
        terms = {"labeled": (partial_label_loss(self.loss, labeled, targets, batch.tasks, self.space), 1.0)}
        if taught is not None:
            difference = self._probability(full_resolution(outputs)[count:]) - self._probability(taught)
            weight = self.config.weight_unlabeled * gaussian_ramp(progress, self.config.ramp_length)
            terms["unlabeled"] = (difference.square().mean(), weight)
        return terms

    def after_update(self, network: nn.Module, progress: float) -> None:
        """The teacher follows: ``decay = min(1 - 1/n, ema_decay)`` at the n-th update."""
        update_teacher(network, min(1 - 1 / (num_updates(network) + 1), self.config.ema_decay))

    def pseudo_labels(
        self, network: nn.Module, images: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        """The teacher's, then the student's view."""

        def run(parts: MultiDecoderUNet, images: Tensor) -> list[Tensor]:
            return [
                full_resolution(parts.decoder(parts.encoder(images))),
                full_resolution(parts.extra(STUDENT)(images)),
            ]

        views: list[Tensor] = network(images, run)
        return views

    def _noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Clipped Gaussian noise, drawn where the images are: patches are large. The generator seeds it."""
        seed = int(torch.randint(2**62, (), generator=generator))
        draw, sigma = torch.Generator(images.device).manual_seed(seed), self.config.mean_teacher_noise
        noise = torch.randn(images.shape, generator=draw, device=images.device, dtype=images.dtype)
        return (sigma * noise).clamp(-2 * sigma, 2 * sigma)

    def _probability(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid() if self.space.table.has_regions else logits.float().softmax(1)
