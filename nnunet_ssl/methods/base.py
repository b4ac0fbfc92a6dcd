"""What a method is: a frozen config and one function that turns a batch into named, weighted loss terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Terms = dict[str, tuple[Tensor, float]]


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


class Method(ABC):
    """A paper. Subclasses are final; ``losses`` reads like its equations."""

    uses_unlabeled: bool = True

    @abstractmethod
    def losses(self, network: nn.Module, batch: Batch, progress: float, generator: torch.Generator) -> Terms:
        """Loss terms of one update: ``{name: (value, weight)}``; the trainer minimises the weighted sum.

        Args:
            network: called as the trainer holds it (compiled or distributed wrappers included), once per
                update where the method allows.
            batch: the data.
            progress: share of training done, in [0, 1].
            generator: CPU generator; the only source of randomness.
        """


def total_loss(terms: Terms) -> Tensor:
    """Weighted sum of the terms."""
    return torch.stack([value * weight for value, weight in terms.values()]).sum()
