"""The supervised baseline: ``nnUNetv2_train ID CONFIG FOLD -tr nnUNetTrainerSSLSupervised``."""

from __future__ import annotations

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ssl.inference.prompts import restrict_to_wished_task
from nnunet_ssl.methods.supervised import Supervised, SupervisedConfig
from nnunet_ssl.training.adapter import SSLTrainer
from nnunet_ssl.training.networks import planned_network


class nnUNetTrainerSSLSupervised(SSLTrainer):
    """nnU-Net in the loop and budget of the semi-supervised trainers, without unlabelled data."""

    method_config_class = SupervisedConfig

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The stock network."""
        network = planned_network(
            configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        return restrict_to_wished_task(network, plans_manager.plans, num_output_channels)

    def build_method(self) -> Supervised:
        """nnU-Net's own loss."""
        return Supervised(self.loss, self.space, self.enable_deep_supervision)
