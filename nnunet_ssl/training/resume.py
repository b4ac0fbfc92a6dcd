"""What a checkpoint keeps beside nnU-Net's own, so that ``--c`` goes on as if nothing had happened."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from textwrap import shorten
from typing import Any

import torch

from nnunet_ssl.config import FREE_OPTIONS
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.training.random_state import get_random_state, set_random_state

SSL_STATE = "ssl_state"  # key in the checkpoint

# Of a network's parts: what predicts, and what a text encoder is called (it has a fingerprint)
_NO_PARTS = ("inference", "inference_branches", "model")


def save_with_state(
    save: Callable[[Any], None], filename: str, kept: dict[str, Any], generator: torch.Generator
) -> None:
    """Save as ``save`` does, with what is kept and random numbers; another name first, so never half."""
    buffer = io.BytesIO()
    save(buffer)
    if buffer.tell() == 0:  # not rank 0, or checkpointing is disabled
        return
    buffer.seek(0)
    checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)
    checkpoint[SSL_STATE] = {
        **kept,
        "generator": generator.get_state(),
        "random": get_random_state(),
    }
    temporary = f"{filename}.tmp"
    torch.save(checkpoint, temporary)
    os.replace(temporary, filename)


def read_state(checkpoint: str) -> dict[str, Any] | None:
    """What ``save_with_state`` added; ``None`` in a checkpoint of stock nnU-Net."""
    state: dict[str, Any] | None
    state = torch.load(checkpoint, map_location="cpu", weights_only=False).get(SSL_STATE)
    return state


def check_network(state: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ``ConfigError`` if the weights are of a network with other parts, such as other sentences."""
    if "network" not in state:  # of an older version
        return
    before, after = _leaves(state["network"]), _leaves(now)
    changed = [
        f"{name}: {shorten(str(before.get(name)), 60)} -> {shorten(str(value), 60)}"
        for name, value in after.items()
        if before.get(name) != value
    ]
    if changed:
        raise ConfigError(
            f"The checkpoint is of another network ({'; '.join(changed)}). Restore what it was trained with "
            "(options, or the embedded sentences of the dataset), or train anew under other plans."
        )


def check_options(state: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ``ConfigError`` if a training is continued with other options than it began with."""
    before = state["options"]
    changed = [
        f"{key}: {before['options'].get(key)} -> {value}"
        for key, value in now["options"].items()
        if before["options"].get(key) != value and key not in FREE_OPTIONS
    ]
    changed += ["tasks in dataset.json"] if before["tasks"] != now["tasks"] else []
    if changed:
        raise ConfigError(
            f"Cannot continue with --c: options changed since the checkpoint ({'; '.join(changed)}). "
            "Restore them, "
            "or make plans of another name with 'nnUNetv2_ssl configure' and train anew."
        )


def _leaves(parts: Any, name: str = "") -> dict[str, Any]:
    """Nested entries by their last name, but for those on which no weight depends."""
    if not isinstance(parts, dict):
        return {} if name in _NO_PARTS else {name: parts}
    return {key: value for name, part in parts.items() for key, value in _leaves(part, name).items()}


def restore_random_numbers(state: dict[str, Any], generator: torch.Generator) -> None:
    """Continue the checkpoint's random numbers."""
    generator.set_state(state["generator"].cpu())
    set_random_state(state["random"])
