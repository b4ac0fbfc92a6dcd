"""Asking a trained network for one task.

nnU-Net's predictor knows neither case nor task, so the wish comes from the environment
(``nnUNet_ssl_task=hippocampus nnUNetv2_predict ...``) and acts on the network's output: channels that were
not asked for are pushed below all others, so that they are never predicted. A model that was exported for one
task holds the wish in its plans. Without a wish the union of all labels is predicted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nnunet_ssl.nn.propl_unet import ProPLUNet
from nnunet_ssl.targets import LabelSpace
from nnunet_ssl.tasks import BLOCK, TaskTable

TASK_VARIABLE = "nnUNet_ssl_task"
PLANS_TASK = "task"  # in plans["nnunet_ssl"] of an exported model: what it predicts unless asked else

# e^-50 is nothing, and -50 survives half precision after nnU-Net has summed mirrored and overlapping windows.
MARGIN = 50.0


class Restriction:
    """Lets a network predict only some channels until it is removed.

    A network that decodes prompt by prompt, ProPL's, is spared the prompts of other channels; of all others
    the output is suppressed.

    Args:
        handle: of the hook on the output.
        asked: such networks within the network.
        keep: bool (K,) or (B, K), the prompts to keep.
    """

    def __init__(self, handle: RemovableHandle, asked: Sequence[ProPLUNet], keep: Tensor) -> None:
        self._handle = handle
        self._before = [(network, network.asked) for network in asked]
        for network in asked:
            network.ask(keep)

    def remove(self) -> None:
        """Let the network predict what it did before."""
        self._handle.remove()
        for network, asked in self._before:
            network.ask(asked)


def restrict_output(network: nn.Module, keep: Tensor) -> Restriction:
    """Let a network predict only some channels until the returned handle is removed.

    Args:
        network: gives logits (B, channels, *spatial) or a list of them.
        keep: bool (channels,) for all samples alike or (B, channels).
    """

    def hook(
        module: nn.Module, inputs: tuple[Any, ...], output: Tensor | Sequence[Tensor]
    ) -> Tensor | list[Tensor]:
        if isinstance(output, Tensor):
            return suppress_channels(output, keep)
        return [suppress_channels(o, keep) for o in output]

    asked = [m for m in network.modules() if isinstance(m, ProPLUNet)]
    offset = 1 if any(m.has_background for m in asked) else 0
    return Restriction(network.register_forward_hook(hook), asked, keep[..., offset:])


def suppress_channels(logits: Tensor, keep: Tensor) -> Tensor:
    """Push channels below every kept one, and below 0 for the sigmoid of region-based training.

    Args:
        logits: (B, channels, *spatial).
        keep: bool (channels,) or (B, channels).
    """
    keep = keep.to(logits.device).expand(len(logits), -1).view(*logits.shape[:2], *[1] * (logits.ndim - 2))
    never = logits.amin(1, keepdim=True).clamp(max=0) - MARGIN
    return torch.where(keep, logits, never)


def kept_channels(table: TaskTable, prompts: Sequence[int], num_channels: int) -> Tensor:
    """Bool (channels,): the channels of some prompts, and background where there is one."""
    keep = torch.zeros(num_channels, dtype=torch.bool)
    offset = 0 if table.has_regions else 1
    keep[:offset] = True
    keep[[k + offset for k in prompts]] = True
    return keep


def task_channels(space: LabelSpace, tasks: Tensor) -> Tensor:
    """Bool (B, channels): what the task of each sample annotates, background included."""
    num_channels = space.num_prompts + (0 if space.table.has_regions else 1)
    rows = [kept_channels(space.table, space.table.prompts_of(int(t)), num_channels) for t in tasks]
    return torch.stack(rows)


def wished_task(plans: Mapping[str, Any]) -> str | None:
    """What is asked for: by the environment, else by the plans of a model that was exported for one task."""
    return os.environ.get(TASK_VARIABLE) or plans.get(BLOCK, {}).get(PLANS_TASK)


def restrict_to_wished_task(network: nn.Module, plans: Mapping[str, Any], num_channels: int) -> nn.Module:
    """Apply the wish for a task, if there is one; returns the network.

    Raises:
        TaskError: the wish names neither a task nor a label; the message lists both.
    """
    wish = wished_task(plans)
    if wish:
        table = TaskTable.from_plans(plans)
        restrict_output(network, kept_channels(table, table.resolve(wish), num_channels))
    return network
