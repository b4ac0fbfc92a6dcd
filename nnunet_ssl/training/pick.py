"""PICK: ``nnUNetv2_train ID CONFIG FOLD -tr nnUNetTrainerPICK``."""

from __future__ import annotations

from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ssl.inference.prompts import restrict_to_wished_task
from nnunet_ssl.methods.pick import AUXILIARY, MIM, PICK, PICKConfig
from nnunet_ssl.nn.multi_decoder import MultiDecoderUNet, detached_decoder, for_inference
from nnunet_ssl.tasks import BLOCK, TaskTable
from nnunet_ssl.training.adapter import SSLTrainer
from nnunet_ssl.training.networks import planned_unet

DECODERS = "pick_decoders"  # in plans["nnunet_ssl"]


def decoder_plans(config: PICKConfig, table: TaskTable) -> dict[str, Any]:
    """Which decoders the network has: those without a loss are not built, they would stop DDP."""
    return {DECODERS: list(config.decoders)}


def pick_network(
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> nn.Module:
    """In training the planned network with a MIM and an auxiliary decoder, else the planned network alone.

    All decoders are the planned one (section 3.2). The MIM decoder has one output per image channel, at the
    full resolution only.
    """

    def planned(outputs: int) -> nn.Module:
        return planned_unet(configuration_manager, num_input_channels, outputs, enable_deep_supervision)

    plans = plans_manager.plans
    if not enable_deep_supervision:  # nnU-Net's predictor
        network = for_inference(planned(num_output_channels))
        return restrict_to_wished_task(network, plans, num_output_channels)
    primary, wanted, decoders = planned(num_output_channels), plans[BLOCK][DECODERS], {}
    if MIM in wanted:
        decoders[MIM] = detached_decoder(planned(num_input_channels), deep_supervision=False)
    if AUXILIARY in wanted:
        decoders[AUXILIARY] = detached_decoder(planned(num_output_channels), deep_supervision=True)
    return restrict_to_wished_task(MultiDecoderUNet(primary, **decoders), plans, num_output_channels)


class nnUNetTrainerPICK(SSLTrainer):
    """PICK (Zeng et al., IJCV 2025)."""

    method_config_class = PICKConfig
    network_plans = staticmethod(decoder_plans)
    build_network_architecture = staticmethod(pick_network)

    def build_method(self) -> PICK:
        """All terms on nnU-Net's loss."""
        full_loss = self.loss.loss if self.enable_deep_supervision else self.loss
        return PICK(self.method_config, self.loss, full_loss, self.space, self.enable_deep_supervision)
