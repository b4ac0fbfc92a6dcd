"""Bidirectional copy-paste: ``nnUNetv2_train ID CONFIG FOLD -tr nnUNetTrainerBCP``."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from nnunet_ssl.methods.bcp import BCP, BCPConfig
from nnunet_ssl.tasks import IGNORE
from nnunet_ssl.training.adapter import SSLTrainer
from nnunet_ssl.training.mean_teacher import two_networks


class nnUNetTrainerBCP(SSLTrainer):
    """BCP (Bai et al., CVPR 2023); the student is the result, as in the paper and its code."""

    method_config_class = BCPConfig
    build_network_architecture = staticmethod(partial(two_networks, "student"))

    def build_method(self) -> BCP:
        """On nnU-Net's loss for a dataset of the same labels and an ignore label."""
        loss = self._loss_with_ignore_label()
        full_loss = loss.loss if self.enable_deep_supervision else loss
        return BCP(self.method_config, loss, full_loss, self.space, self.enable_deep_supervision)

    def _loss_with_ignore_label(self) -> Any:
        """What nnU-Net builds where there is an ignore label; by it the method leaves out parts of a mix."""
        own = self.label_manager
        labels = {**self.dataset_json["labels"], IGNORE: self.space.with_ignore_label().ignore_label}
        self.label_manager = self.plans_manager.get_label_manager({**self.dataset_json, "labels": labels})
        try:
            loss = self._build_loss()
        finally:
            self.label_manager = own
        for module in loss.modules():
            if hasattr(module, "ddp"):  # processes may hold different tasks, see the adapter
                module.ddp = self.is_ddp and len(self.task_table) == 1
            if hasattr(module, "use_ignore_label") and not own.has_ignore_label:
                # Of regions nnU-Net averages the cross entropy, but sums it where there is an ignore label.
                module.ce = MeanOverRegions(module.ce)
        return loss


class MeanOverRegions(nn.Module):
    """A cross entropy of each region (B, R, *spatial) as one map (B, 1, *spatial).

    Args:
        cross_entropy: without reduction.
    """

    def __init__(self, cross_entropy: nn.Module) -> None:
        super().__init__()
        self.cross_entropy = cross_entropy

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over however many regions are asked for: those of one task, or all."""
        mean: Tensor = self.cross_entropy(logits, targets).mean(1, keepdim=True)
        return mean
