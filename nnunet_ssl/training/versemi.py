"""VerSemi and UniSeMi: ``nnUNetv2_train ID CONFIG FOLD -tr nnUNetTrainerVerSemi`` (or ``UniSeMi``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.inference.prompts import restrict_to_wished_task
from nnunet_ssl.methods.versemi import UniSeMiConfig, VerSemi, VerSemiConfig
from nnunet_ssl.nn.dynamic_head import HEAD_WIDTH, FilterController, prompt_vectors
from nnunet_ssl.nn.prompted_unet import PromptedUNet
from nnunet_ssl.tasks import BLOCK, TaskTable
from nnunet_ssl.training.adapter import SSLTrainer
from nnunet_ssl.training.networks import planned_unet

SYNTHETIC = "foreground"  # name of the synthetic task's vector in a prompt file


def prompt_plans(config: UniSeMiConfig, table: TaskTable) -> dict[str, Any]:
    """Kind of prompt and, for text prompts, the vectors themselves, so that prediction needs no file."""
    vectors = _text_vectors(config.prompt_file, table) if config.prompt == "text" else None
    return {"prompt": config.prompt, "prompt_vectors": vectors}


def prompted_network(
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> nn.Module:
    """The planned network with the dynamic head in place of its segmentation layers."""
    block, table = plans_manager.plans[BLOCK], TaskTable.from_plans(plans_manager.plans)
    planned = planned_unet(configuration_manager, num_input_channels, HEAD_WIDTH, enable_deep_supervision)
    encoder: Any = planned.encoder
    prompts = prompt_vectors(block["prompt"], len(table.prompts) + 1, block["prompt_vectors"])
    controller = FilterController(encoder.output_channels[-1], prompts, learned=block["prompt"] == "soft")
    network = PromptedUNet(planned, controller, has_background=not table.has_regions)
    return restrict_to_wished_task(network, plans_manager.plans, num_output_channels)


class nnUNetTrainerVerSemi(SSLTrainer):
    """VerSemi (Zeng et al., IEEE TMI 2025)."""

    method_config_class = VerSemiConfig
    network_plans = staticmethod(prompt_plans)
    build_network_architecture = staticmethod(prompted_network)

    def build_method(self) -> VerSemi:
        """All four terms."""
        batch_dice = self.configuration_manager.batch_dice
        return VerSemi(self.method_config, self.space, self.scale_weights, batch_dice)


class nnUNetTrainerUniSeMi(SSLTrainer):
    """UniSeMi: VerSemi without the auxiliary constraint."""

    method_config_class = UniSeMiConfig
    network_plans = staticmethod(prompt_plans)
    build_network_architecture = staticmethod(prompted_network)

    def build_method(self) -> VerSemi:
        """Without L_aux."""
        batch_dice = self.configuration_manager.batch_dice
        return VerSemi.without_auxiliary(self.method_config, self.space, self.scale_weights, batch_dice)


def _text_vectors(file: str | None, table: TaskTable) -> list[list[float]]:
    """One vector per prompt and one for the synthetic task (the mean of the others if the file has none)."""
    if file is None or not Path(file).is_file():
        raise ConfigError(
            f"prompt=text needs prompt_file, an .npz with one vector per label; found {file!r}. Set "
            "prompt_file=FILE."
        )
    with np.load(file) as stored:
        vectors = {name: np.asarray(stored[name], dtype=np.float64).ravel() for name in stored.files}
    missing = [p.label for p in table.prompts if p.label not in vectors]
    if missing:
        raise ConfigError(
            f"{file} lacks vectors for label(s) {', '.join(missing)}; it has {', '.join(vectors)}."
        )
    own = [vectors[p.label] for p in table.prompts]
    if len({v.size for v in own}) > 1:
        raise ConfigError(f"The vectors in {file} differ in length: {sorted({v.size for v in own})}.")
    synthetic = vectors[SYNTHETIC] if SYNTHETIC in vectors else np.mean(own, axis=0)
    return [v.tolist() for v in [*own, synthetic]]
