"""nnU-Net's planned network, as the methods need it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.inference.prompts import restrict_to_wished_task


def planned_network(
    configuration: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    deep_supervision: bool,
) -> nn.Module:
    """The network that stock nnU-Net trains with these plans."""
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        num_input_channels,
        num_output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )


def stock_network(
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> nn.Module:
    """A trainer's ``build_network_architecture``: the planned one, of whose labels one may ask for some."""
    network = planned_network(
        configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
    )
    return restrict_to_wished_task(network, plans_manager.plans, num_output_channels)


def network_of_plans(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any], deep_supervision: bool
) -> tuple[nn.Module, ConfigurationManager, int]:
    """The same for a dataset's plans as they are stored: network, configuration, input channels."""
    manager = PlansManager(copy.deepcopy(dict(plans)))
    chosen = manager.get_configuration(configuration)
    inputs = determine_num_input_channels(manager, chosen, dict(dataset_json))
    outputs = manager.get_label_manager(dict(dataset_json)).num_segmentation_heads
    return planned_network(chosen, inputs, outputs, deep_supervision), chosen, inputs


def planned_unet(
    configuration: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    deep_supervision: bool,
) -> nn.Module:
    """The same, for methods that take encoder and decoder apart.

    Raises:
        ConfigError: the plans hold an architecture without an encoder and nnU-Net's decoder.
    """
    network = planned_network(configuration, num_input_channels, num_output_channels, deep_supervision)
    if not hasattr(network, "encoder") or not hasattr(getattr(network, "decoder", None), "seg_layers"):
        raise ConfigError(
            "This trainer needs a U-Net with an encoder and nnU-Net's decoder (PlainConvUNet, "
            "ResidualEncoderUNet), but "
            f"the plans hold {configuration.network_arch_class_name}. Use other plans, or "
            "nnUNetTrainerSSLSupervised."
        )
    return network


def bare_network(network: nn.Module) -> nn.Module:
    """The network within the wrappers of distributed training and compilation."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network
