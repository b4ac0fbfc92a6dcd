"""ProPL: ``nnUNetv2_train ID CONFIG FOLD -tr nnUNetTrainerProPL``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_ssl.conversion.prompt_embedding import FILE, PromptEmbedding, check_sentences, stored_file
from nnunet_ssl.errors import ConfigError, DataError
from nnunet_ssl.inference.prompts import wished_task
from nnunet_ssl.inference.sentences import install_tokens, wished_question
from nnunet_ssl.methods.propl import ProPL, ProPLConfig
from nnunet_ssl.nn.prompting import PromptTokens
from nnunet_ssl.nn.propl_unet import PROMPTS, PSEUDO, SUPERVISED, build_propl_unet, stages_to_prompt
from nnunet_ssl.nn.timm_encoder import STRIDES, TimmUNet, check_timm_plans
from nnunet_ssl.tasks import BLOCK, Embedding, TaskTable
from nnunet_ssl.training.adapter import SSLTrainer
from nnunet_ssl.training.networks import bare_network, planned_unet

NETWORK = "propl"  # in plans["nnunet_ssl"]
LEARNED_TOKENS, LEARNED_WIDTH = 8, 64  # of prompts that are learned vectors


def prompting_plans(config: ProPLConfig, table: TaskTable) -> dict[str, Any]:
    """What the network is made of: prediction sees the plans, and finds the values in the checkpoint."""
    kind = config.propl_prompts
    if kind == "auto":
        kind = "learned" if table.embedding is None else "text"
    if kind == "text" and table.embedding is None:
        raise ConfigError(
            "propl_prompts=text needs embedded sentences, and the dataset has none. Run 'nnUNetv2_ssl "
            "embed-prompts -d ID --model NAME_OR_FOLDER', or set propl_prompts=learned."
        )
    if kind == "off":
        _check_one_label_per_task(table)
    network = {
        "prompts": kind,
        "embedding": asdict(table.embedding) if kind == "text" and table.embedding else None,
        "prompted_voxels": config.prompted_voxels,
        "stage_text_tokens": list(config.stage_text_tokens),
        "decoders": list(config.decoders),
        "inference": config.inference,
        "timm_encoder": config.timm_encoder,
    }
    return {NETWORK: network}


def propl_network(
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> nn.Module:
    """In training both decoders; in prediction (no deep supervision) what answers the question.

    The embedded sentences come from the dataset in training and from the checkpoint in prediction.
    """
    plans, table = plans_manager.plans, TaskTable.from_plans(plans_manager.plans)
    made, training = plans[BLOCK][NETWORK], enable_deep_supervision
    strides, patch_size = configuration_manager.pool_op_kernel_sizes, configuration_manager.patch_size
    if made["timm_encoder"]:
        check_timm_plans(patch_size, strides)
        strides = STRIDES
    question = None if training else wished_question(table, _embedding(made), wished_task(plans))
    inference = made["inference"]
    network = build_propl_unet(
        _planned(plans, configuration_manager, num_input_channels, training),
        made["decoders"] if training else [SUPERVISED, PSEUDO] if inference == "mean" else [inference],
        _prompts(plans, table, from_dataset=training),
        stages_to_prompt(patch_size, strides, made["prompted_voxels"]),
        made["stage_text_tokens"],
        len(table.prompts),
        has_background=not table.has_regions,
        inference=inference,
    )
    if question is not None:
        network.ask(torch.isin(torch.arange(len(table.prompts)), torch.tensor(question.prompts)))
        install_tokens(network, PROMPTS, question.tokens)
    return network


class nnUNetTrainerProPL(SSLTrainer):
    """ProPL (Chen et al., AAAI 2026)."""

    method_config_class = ProPLConfig
    network_plans = staticmethod(prompting_plans)
    build_network_architecture = staticmethod(propl_network)

    def build_method(self) -> ProPL:
        """Both terms, and a word in the log on where the prompts come from."""
        network: Any = bare_network(self.network)
        made = self.plans_manager.plans[BLOCK][NETWORK]
        self.print_to_log_file(_announcement(made, self.task_table))
        batch_dice = self.configuration_manager.batch_dice
        return ProPL(self.method_config, self.space, self.scale_weights, network.bottleneck, batch_dice)


def _announcement(made: Mapping[str, Any], table: TaskTable) -> str:
    if made["prompts"] == "text":
        sentences = "; ".join(table.sentences())
        return f"Prompts: sentences embedded with {made['embedding']['model']}: {sentences}"
    if made["prompts"] == "off":
        return "Prompts: none (propl_prompts=off), so all tasks share one map."
    return (
        "Prompts: learned token vectors, not sentences. 'nnUNetv2_ssl embed-prompts' embeds the sentences of "
        "a dataset."
    )


def _planned(
    plans: Mapping[str, Any], configuration: ConfigurationManager, num_input_channels: int, training: bool
) -> Callable[[], nn.Module]:
    """Makes networks of one output channel; pretrained weights are for training only."""
    name = plans[BLOCK][NETWORK]["timm_encoder"]
    weights = plans[BLOCK].get("options", {}).get("timm_weights") if training else None

    def planned() -> nn.Module:
        if name:
            return TimmUNet(name, num_input_channels, 1, training, weights)
        return planned_unet(configuration, num_input_channels, 1, training)

    return planned


def _prompts(plans: Mapping[str, Any], table: TaskTable, from_dataset: bool) -> PromptTokens | None:
    made = plans[BLOCK][NETWORK]
    if made["prompts"] == "off":
        return None
    if made["prompts"] == "learned":
        return PromptTokens(torch.randn(len(table.prompts), LEARNED_TOKENS, LEARNED_WIDTH), learned=True)
    embedding = _embedding(made)
    assert embedding is not None
    if from_dataset:
        return PromptTokens(*_stored(plans["dataset_name"], table, embedding))
    return PromptTokens(torch.zeros(len(table.prompts), embedding.tokens, embedding.width))


def _embedding(made: Mapping[str, Any]) -> Embedding | None:
    return Embedding(**made["embedding"]) if made["embedding"] else None


def _stored(dataset: str, table: TaskTable, expected: Embedding) -> tuple[Tensor, Tensor]:
    """Token vectors and mask that lie with the dataset."""
    file = stored_file(dataset)
    if file is None:
        raise DataError(
            f"dataset.json of {dataset} says that its sentences are embedded, but {FILE} is neither in its "
            "preprocessed nor in its raw folder. Run 'nnUNetv2_ssl embed-prompts' again."
        )
    embedding = PromptEmbedding.load(file)
    check_sentences(embedding, table, file)
    if embedding.shape != expected:
        raise DataError(
            f"{file} ({embedding.shape}) is not what dataset.json describes ({expected}). Run 'nnUNetv2_ssl "
            "embed-prompts' again."
        )
    return torch.from_numpy(embedding.tokens), torch.from_numpy(embedding.mask)


def _check_one_label_per_task(table: TaskTable) -> None:
    several = [t for t in table.tasks if len(t.labels) > 1]
    if several:
        names = ", ".join(f"{t.name} ({', '.join(t.labels)})" for t in several)
        raise ConfigError(
            f"propl_prompts=off gives one map for all labels, so a task may have only one; found {names}."
        )
