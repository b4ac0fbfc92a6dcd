"""What an exported model is: its description, its labels and its weights, derived from the original's."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.inference.prompts import PLANS_TASK, kept_channels
from nnunet_ssl.tasks import BLOCK, IGNORE, TaskTable
from nnunet_ssl.training.networks import network_of_plans

STOCK_TRAINER = "nnUNetTrainer"


@dataclass(frozen=True)
class Description:
    """What a model says of itself.

    Attributes:
        trainer: name of the trainer.
        configuration: such as ``3d_fullres``.
        plans: content of plans.json.
        dataset_json: content of dataset.json.
        task: the only task or label that it predicts; ``None`` for all.
        channels: the original's output channels that are left; ``None`` for all.
    """

    trainer: str
    configuration: str
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    task: str | None = None
    channels: tuple[int, ...] | None = None

    @property
    def identifier(self) -> str:
        """DATASET/TRAINER__PLANS__CONFIGURATION, nnU-Net's place for the model."""
        name = f"{self.trainer}__{self.plans['plans_name']}__{self.configuration}"
        return f"{self.plans['dataset_name']}/{name}"

    @property
    def table(self) -> TaskTable:
        """Its tasks and labels."""
        return TaskTable.from_dataset_json(self.dataset_json)

    @property
    def labels(self) -> dict[str, Any]:
        """Value of every label that it predicts."""
        prompts = self.table.prompts
        kept = range(len(prompts)) if self.task is None else self.table.resolve(self.task)
        return {prompts[k].label: self.dataset_json["labels"][prompts[k].label] for k in kept}


def as_stock(original: Description, task: str | None) -> Description:
    """A model of nnUNetTrainer. Its plans name says where it comes from, so that it replaces no other."""
    method = original.trainer.removeprefix(STOCK_TRAINER).strip("_")
    names = [original.plans["plans_name"], method, task or ""]
    plans = {k: v for k, v in original.plans.items() if k != BLOCK}
    plans["plans_name"] = "_".join(name_for_path(name) for name in names if name)
    whole = replace(original, trainer=STOCK_TRAINER, plans=plans)
    if task is None:
        return whole
    table = original.table
    prompts, full = table.resolve(task), len(table.prompts) + (0 if table.has_regions else 1)
    channels = kept_channels(table, prompts, full).nonzero()[:, 0].tolist()
    return replace(
        whole, dataset_json=cut_labels(original.dataset_json, table, prompts), channels=tuple(channels)
    )


def as_prompted(original: Description, task: str | None) -> Description:
    """A model that keeps its trainer and its label values. For one task its plans hold the wish for it."""
    if task is None:
        return original
    plans = copy.deepcopy(original.plans)
    plans["plans_name"] = f"{name_for_path(plans['plans_name'])}_{name_for_path(task)}"
    plans.setdefault(BLOCK, {})[PLANS_TASK] = task
    return replace(original, plans=plans, task=task)


def stock_network(model: Description) -> nn.Module:
    """The network that nnUNetTrainer builds for prediction, without memory for its weights."""
    with torch.device("meta"):
        return network_of_plans(model.plans, model.configuration, model.dataset_json, False)[0]


def is_stock(network: nn.Module, stock: nn.Module) -> bool:
    """Whether two networks differ in nothing but weights: class, layers, names and shapes, and no hooks."""
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    same = type(network) is type(stock) and repr(network) == repr(stock)
    return same and not hooked and state_shapes(network) == state_shapes(stock)


def state_shapes(network: nn.Module) -> dict[str, torch.Size]:
    """Shape of everything in a state dict."""
    return {key: tensor.shape for key, tensor in network.state_dict().items()}


def cut_labels(dataset_json: Mapping[str, Any], table: TaskTable, prompts: Sequence[int]) -> dict[str, Any]:
    """dataset.json with the labels of some prompts only, their values numbered anew without gaps.

    Regions keep the order in which they are written. Where each holds a single value it is listed twice: by
    a list of several nnU-Net knows that labels are regions, which the network was trained for.
    """
    values = [p.values for p in table.prompts]
    order = dataset_json["regions_class_order"] if table.has_regions else ()
    written = [order[k] for k in prompts] if table.has_regions else []
    left = sorted({*written, *(v for k in prompts for v in values[k])})
    number = {value: n for n, value in enumerate(left, start=1)}
    repeat = 2 if all(len(values[k]) == 1 for k in prompts) else 1
    labels: dict[str, Any] = {"background": 0}
    for k in prompts:
        new = [number[v] for v in values[k]]
        labels[table.prompts[k].label] = new * repeat if table.has_regions else new[0]
    if IGNORE in dataset_json["labels"]:
        labels[IGNORE] = len(number) + 1
    cut = {k: v for k, v in dataset_json.items() if k not in (BLOCK, "regions_class_order")} | {
        "labels": labels
    }
    return cut | ({"regions_class_order": [number[v] for v in written]} if table.has_regions else {})


def cut_channels(
    weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], channels: Sequence[int]
) -> dict[str, Tensor]:
    """Weights of a network with fewer outputs: of tensors whose shape differs, the rows of some channels.

    Args:
        weights: of the full network.
        shapes: of the network with ``len(channels)`` outputs.
        channels: the outputs to keep.
    """
    cut = {k: w if w.shape == shapes[k] else w[list(channels)] for k, w in weights.items()}
    wrong = [k for k, w in cut.items() if w.shape != shapes[k]]
    if wrong:
        raise ConfigError(
            f"Single labels cannot be taken out of this network ({', '.join(wrong)} do not split by label). "
            "Export it without --task."
        )
    return cut


def name_for_path(name: str) -> str:
    """A name for nnU-Net's folders, whose names are split at double underscores."""
    return re.sub(r"_{2,}", "_", re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)).strip("_")
