"""What an exported model is: its description, its labels and its weights, all derived from the original's."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ssl.errors import ConfigError
from nnunet_ssl.inference.prompts import kept_channels
from nnunet_ssl.tasks import BLOCK, IGNORE, TaskTable

STOCK_TRAINER = "nnUNetTrainer"
PLANS_TASK = "task"  # in plans["nnunet_ssl"]: what a model that needs the plugin predicts unless asked else


@dataclass(frozen=True)
class Description:
    """What an exported model says of itself.

    Attributes:
        trainer: name of the trainer.
        configuration: such as ``3d_fullres``.
        plans: content of plans.json.
        dataset_json: content of dataset.json.
        channels: output channels of the original that are kept; ``None`` for all.
        labels: value of each label that is predicted: before and now.
    """

    trainer: str
    configuration: str
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    channels: list[int] | None
    labels: dict[str, tuple[Any, Any]]

    @property
    def identifier(self) -> str:
        """DATASET/TRAINER__PLANS__CONFIGURATION, nnU-Net's place for the model."""
        name = f"{self.trainer}__{self.plans['plans_name']}__{self.configuration}"
        return f"{self.plans['dataset_name']}/{name}"


def is_stock(network: nn.Module, stock: nn.Module) -> bool:
    """Whether two networks are one and the same but for their weights: class, layers, names, shapes, no hooks."""
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    same = type(network) is type(stock) and repr(network) == repr(stock)
    return same and not hooked and _shapes(network) == _shapes(stock)


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in network.state_dict().items()}


# What the copy says of itself


def describe_stock(
    plans: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    trainer: str,
    configuration: str,
    task: str | None,
    prompts: list[int] | None,
) -> Description:
    """A model of nnUNetTrainer. Its plans name says where it comes from, so that it replaces no other."""
    table = TaskTable.from_dataset_json(dataset_json)
    names = [plans["plans_name"], trainer.removeprefix(STOCK_TRAINER).strip("_"), task if prompts else None]
    new_plans = {k: v for k, v in plans.items() if k != BLOCK}
    new_plans["plans_name"] = "_".join(_for_path(n) for n in names if n)
    new_json, channels = dict(dataset_json), None
    if prompts is not None:
        new_json = cut_labels(dataset_json, table, prompts)
        full = len(table.prompts) + (0 if table.has_regions else 1)
        channels = kept_channels(table, prompts, full).nonzero()[:, 0].tolist()
    kept = [p.label for k, p in enumerate(table.prompts) if prompts is None or k in prompts]
    labels = {name: (dataset_json["labels"][name], new_json["labels"][name]) for name in kept}
    return Description(STOCK_TRAINER, configuration, new_plans, new_json, channels, labels)


def describe_prompted(
    plans: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    trainer: str,
    configuration: str,
    task: str | None,
    prompts: list[int] | None,
) -> Description:
    """A model that keeps its trainer and its label values. One task: its plans hold the wish for it."""
    table, new_plans = TaskTable.from_dataset_json(dataset_json), copy.deepcopy(dict(plans))
    if prompts is not None:
        new_plans["plans_name"] = f"{plans['plans_name']}_{_for_path(str(task))}"
        new_plans[BLOCK][PLANS_TASK] = task
    kept = [p.label for k, p in enumerate(table.prompts) if prompts is None or k in prompts]
    labels = {name: (dataset_json["labels"][name],) * 2 for name in kept}
    return Description(trainer, configuration, new_plans, dict(dataset_json), None, labels)


def cut_labels(dataset_json: Mapping[str, Any], table: TaskTable, prompts: Sequence[int]) -> dict[str, Any]:
    """dataset.json with the labels of some prompts only, their values numbered anew without gaps.

    Regions keep their order of writing. Where each lists a single value it is listed twice: by a list of
    several, nnU-Net knows that labels are regions, and the network was trained for regions.
    """
    values = [p.value if isinstance(p.value, tuple) else (p.value,) for p in table.prompts]
    order = dataset_json.get("regions_class_order") if table.has_regions else None
    written = [order[k] for k in prompts] if order else []
    number = {v: n for n, v in enumerate(sorted({*written, *(v for k in prompts for v in values[k])}), 1)}
    labels: dict[str, Any] = {"background": 0}
    single = all(len(values[k]) == 1 for k in prompts)
    for k in prompts:
        new = [number[v] for v in values[k]]
        labels[table.prompts[k].label] = (new * 2 if single else new) if table.has_regions else new[0]
    if IGNORE in dataset_json["labels"]:
        labels[IGNORE] = len(number) + 1
    new_json = {k: v for k, v in dataset_json.items() if k not in (BLOCK, "labels", "regions_class_order")}
    return new_json | {"labels": labels} | ({"regions_class_order": [number[v] for v in written]} if order else {})


def cut_channels(
    weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], channels: list[int]
) -> dict[str, Tensor]:
    """Weights of a network with fewer outputs: of tensors whose shape differs, the rows of some channels.

    Args:
        weights: of the full network.
        shapes: of the network with ``len(channels)`` outputs.
        channels: the outputs to keep.
    """
    cut = {k: w if w.shape == shapes[k] else w[channels] for k, w in weights.items()}
    wrong = [k for k, w in cut.items() if w.shape != shapes[k]]
    if wrong:
        raise ConfigError(f"Cannot take single labels out of this network: see {', '.join(wrong)}.")
    return cut


def _for_path(name: str) -> str:
    """A name for nnU-Net's folders, which are split at double underscores."""
    return re.sub(r"_{2,}", "_", re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII))
