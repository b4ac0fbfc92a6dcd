"""How long an update takes, tried out."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.benchmark import probe
from tests.unit.test_plans import architecture, configuration

DATASET = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "lesion": 1}}


def plans(dim: int) -> dict:
    patch = [16, 32, 32][-dim:]
    entry = configuration("data", patch, architecture(dim, [4, 8, 8]))
    return {"plans_name": "small", "configurations": {"own": entry}}


@pytest.mark.parametrize("dim", [2, 3])
def test_an_update_of_the_planned_network(dim, monkeypatch):
    seen = []
    made = probe.network_of_plans

    def watched(*args, **options):
        network, chosen, channels = made(*args, **options)
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
        return network, chosen, channels

    monkeypatch.setattr(probe, "network_of_plans", watched)
    ticks = iter([0.0, 9.0, 10.0, 11.0, 20.0, 23.0, 30.0, 32.0])  # warm-up of 9 s, then 1, 3 and 2 s
    monkeypatch.setattr(probe, "perf_counter", lambda: next(ticks))
    assert probe.seconds_of_update(plans(dim), "own", DATASET, "cpu") == 2.0
    assert seen == [torch.Size([2, 2, *[16, 32, 32][-dim:]])] * 4


def test_one_slow_update_is_enough(monkeypatch):
    ticks = iter([0.0, 75.0])
    monkeypatch.setattr(probe, "perf_counter", lambda: next(ticks))
    assert probe.seconds_of_update(plans(2), "own", DATASET, "cpu") == 75.0
