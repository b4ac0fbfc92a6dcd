"""What a method is: a frozen config and one function that turns a batch into named, weighted loss terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nnunet_ssl.targets import full_resolution

Terms = dict[str, tuple[Tensor, float]]


@dataclass(frozen=True)
class Panel:
    """One picture in a strip for people.

    Attributes:
        title: what it shows.
        values: (*spatial) of one sample, 2D or 3D.
        kind: ``image`` (gray), ``labels`` (integer label map), ``unit`` (values in [0, 1]) or ``signed``
            (values in [-1, 1]).
    """

    title: str
    values: Tensor
    kind: Literal["image", "labels", "unit", "signed"] = "image"


@dataclass(frozen=True)
class Batch:
    """One update's data, on the training device.

    Attributes:
        labeled: images (B, C, *spatial).
        targets: targets of the labelled images, the full resolution first, then those of deep supervision.
        tasks: (B,) task index of each labelled image.
        unlabeled: images (U, C, *spatial); ``None`` for a method without unlabelled terms.
        unlabeled_tasks: (U,) task index of each unlabelled image, for methods that use task information.
    """

    labeled: Tensor
    targets: list[Tensor]
    tasks: Tensor
    unlabeled: Tensor | None = None
    unlabeled_tasks: Tensor | None = None

    def need_unlabeled(self) -> Tensor:
        """``unlabeled``; ``ValueError`` if the batch has none."""
        if self.unlabeled is None:
            raise ValueError("The method needs unlabelled images, but the batch has none.")
        return self.unlabeled

    def need_tasks(self) -> Tensor:
        """``unlabeled_tasks``; ``ValueError`` if the batch has none."""
        if self.unlabeled_tasks is None:
            raise ValueError("The method needs the tasks of unlabelled images, but the batch has none.")
        return self.unlabeled_tasks


class Method(ABC):
    """A paper. Subclasses are final; ``losses`` reads like its equations.

    Attributes:
        uses_unlabeled: whether batches must hold unlabelled images.
        least_batch: images of each kind that a process needs, 2 for a method that mixes pairs of them.
    """

    uses_unlabeled: bool = True
    least_batch: int = 1

    @abstractmethod
    def losses(self, network: nn.Module, batch: Batch, progress: float, generator: torch.Generator) -> Terms:
        """Loss terms of one update: ``{name: (value, weight)}``; the trainer minimises the weighted sum.

        Every value is drawn as a curve. What is worth watching but not minimised has the weight 0.

        Args:
            network: called as the trainer holds it (compiled or distributed wrappers included), once per
                update where the method allows.
            batch: the data.
            progress: share of training done, in [0, 1].
            generator: CPU generator; the only source of randomness.
        """

    def after_update(self, network: nn.Module, progress: float) -> None:  # noqa: B027  (few methods need it)
        """Called after each optimiser step, for what no gradient moves, such as a teacher's weights."""

    def pseudo_labels(
        self, network: nn.Module, images: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        """What the method takes for the labels of unlabelled images, for the monitor: no training uses it.

        Args:
            network: as in ``preview``.
            images: (U, C, *spatial).
            tasks: (U,) task index of each, -1 where it is unknown.
            generator: as in ``preview``.

        Returns:
            Logits (U, channels, *spatial), by default what the network predicts; and, if the method has a
            second view of the same, its logits, or log-odds (U, 1, *spatial) of any foreground.
        """
        return [full_resolution(network(images))]

    def preview(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[list[Panel]]:
        """Strips of pictures, one a sample, drawn every ``preview_every`` epochs; none by default.

        Args:
            network: the bare network, without compiled or distributed wrappers, in evaluation mode; called
                without gradients.
            batch: data of the epoch's last update.
            generator: CPU generator apart from training's, which pictures must not disturb.
        """
        return []


def total_loss(terms: Terms) -> Tensor:
    """Weighted sum of the terms; what is only watched (weight 0) stays out of the graph."""
    return torch.stack([value * weight for value, weight in terms.values() if weight != 0]).sum()
