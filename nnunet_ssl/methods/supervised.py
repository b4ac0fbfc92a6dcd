"""The fair baseline: nnU-Net's own loss on the labelled images, nothing else.

It shares the loop, the budget and the augmentation of every other method, so that what differs is the method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nnunet_ssl.methods.base import Batch, Method, Terms
from nnunet_ssl.targets import LabelSpace, SegmentationLoss, partial_label_loss


@dataclass(frozen=True)
class SupervisedConfig:
    """The baseline has no options of its own."""


class Supervised(Method):
    """L = L_seg(network(x), y), each sample judged on the labels of its own task.

    Args:
        loss: nnU-Net's loss, deep supervision included.
        space: the tasks of the dataset.
        deep_supervision: whether ``loss`` takes lists.
    """

    uses_unlabeled = False

    def __init__(self, loss: SegmentationLoss, space: LabelSpace, deep_supervision: bool) -> None:
        self.loss = loss
        self.space = space
        self.deep_supervision = deep_supervision

    def losses(self, network: nn.Module, batch: Batch, progress: float, generator: torch.Generator) -> Terms:
        """One term, ``supervised``."""
        targets = batch.targets if self.deep_supervision else batch.targets[0]
        return {
            "supervised": (
                partial_label_loss(self.loss, network(batch.labeled), targets, batch.tasks, self.space),
                1.0,
            )
        }
