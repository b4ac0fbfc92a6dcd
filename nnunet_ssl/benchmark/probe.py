"""Try out how long an update takes: for an estimate before anything has been trained."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import Any

import torch

from nnunet_ssl.training.networks import network_of_plans

UPDATES = 3
ENOUGH = 20.0  # seconds; a slow machine needs no second update to say so


def is_available(device: str) -> bool:
    """Whether this machine has a device: ``cuda``, ``cpu`` or ``mps``."""
    return device == "cpu" or (torch.cuda if device == "cuda" else torch.backends.mps).is_available()


def seconds_of_update(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any], device: str
) -> float:
    """Seconds of one supervised update of the planned network.

    Random patches in the planned size and number go forward and backward. Loading, augmentation and the loss
    are left out.

    Args:
        plans: content of a plans file.
        configuration: such as ``3d_fullres``.
        dataset_json: content of dataset.json.
        device: ``cuda``, ``cpu`` or ``mps``.
    """
    network, chosen, channels = network_of_plans(plans, configuration, dataset_json, deep_supervision=True)
    network = network.to(device)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True)
    images = torch.randn(chosen.batch_size, channels, *chosen.patch_size, device=device)

    def update() -> float:
        start = perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, enabled=device == "cuda"):
            loss = torch.stack([output.float().square().mean() for output in network(images)]).sum()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        return perf_counter() - start

    first = update()
    return first if first > ENOUGH else median(update() for _ in range(UPDATES))
