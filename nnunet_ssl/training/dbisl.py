"""DBiSL: ``nnUNetv2_train ID CONFIG FOLD -tr nnUNetTrainerDBiSL``."""

from __future__ import annotations

from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ssl.inference.prompts import restrict_to_wished_task
from nnunet_ssl.methods.dbisl import DBiSL, DBiSLConfig
from nnunet_ssl.nn.multi_decoder import for_inference
from nnunet_ssl.nn.task_decoders import branched_network, interpolating_decoder
from nnunet_ssl.tasks import BLOCK, TaskTable
from nnunet_ssl.training.adapter import SSLTrainer
from nnunet_ssl.training.networks import planned_unet

NETWORK = "dbisl"  # in plans["nnunet_ssl"]


def branch_plans(config: DBiSLConfig, table: TaskTable) -> dict[str, Any]:
    """What the network is made of; what has no loss is not built, it would stop distributed training."""
    return {
        NETWORK: {
            "second_decoder": config.second_decoder,
            "regression_task": config.regression_task,
            "inference_branches": config.inference_branches,
        }
    }


def dbisl_network(
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> nn.Module:
    """In training both decoders and their heads; in prediction (no deep supervision) what predicts."""
    plans, table = plans_manager.plans, TaskTable.from_plans(plans_manager.plans)
    wanted, training = plans[BLOCK][NETWORK], enable_deep_supervision
    mean_of = wanted["inference_branches"] == "mean"

    def planned() -> nn.Module:
        return planned_unet(configuration_manager, num_input_channels, num_output_channels, training)

    network, second = planned(), None
    if mean_of or (training and wanted["second_decoder"]):
        second = interpolating_decoder(planned(), deep_supervision=True)
    if training or mean_of:
        maps = len(table.prompts) if training and wanted["regression_task"] else 0
        network = branched_network(network, second, maps, mean_of, not table.has_regions)
    if not training:
        network = for_inference(network)
    return restrict_to_wished_task(network, plans, num_output_channels)


class nnUNetTrainerDBiSL(SSLTrainer):
    """DBiSL (Li)."""

    method_config_class = DBiSLConfig
    network_plans = staticmethod(branch_plans)
    build_network_architecture = staticmethod(dbisl_network)

    def build_method(self) -> DBiSL:
        """All terms, distances in the spacing of the plans."""
        return DBiSL(
            self.method_config,
            self.loss,
            self.space,
            self.enable_deep_supervision,
            self.configuration_manager.spacing,
            self.configuration_manager.batch_dice,
        )
