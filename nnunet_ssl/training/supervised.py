"""The supervised baseline: ``nnUNetv2_train ID CONFIG FOLD -tr nnUNetTrainerSSLSupervised``."""

from __future__ import annotations

from nnunet_ssl.methods.supervised import Supervised, SupervisedConfig
from nnunet_ssl.training.adapter import SSLTrainer


class nnUNetTrainerSSLSupervised(SSLTrainer):
    """nnU-Net in the loop and budget of the semi-supervised trainers, without unlabelled data."""

    method_config_class = SupervisedConfig

    def build_method(self) -> Supervised:
        """nnU-Net's own loss."""
        return Supervised(self.loss, self.space, self.enable_deep_supervision)
