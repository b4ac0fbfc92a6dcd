"""Three-step loss trajectories of each method: a refactoring must not move them.

They are stored in ``golden.json``. Where a change is meant to move them, regenerate the file and say why in
the commit message:

    python -m tests.unit.regenerate_golden
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nnunet_ssl.methods.base import Method, total_loss
from nnunet_ssl.methods.supervised import Supervised
from nnunet_ssl.methods.versemi import UniSeMiConfig, VerSemi, VerSemiConfig
from nnunet_ssl.targets import LabelSpace
from tests.unit.test_dbisl import dbisl_method, dbisl_network
from tests.unit.toy import (
    SCALE_WEIGHTS,
    SPACES,
    generator,
    make_batch,
    nnunet_loss,
    prompted_network,
    stock_network,
)

FILE = Path(__file__).with_name("golden.json")
STEPS = 3


def supervised(space: LabelSpace) -> Method:
    return Supervised(nnunet_loss(space), space, deep_supervision=True)


def unisemi(space: LabelSpace) -> Method:
    return VerSemi.without_auxiliary(UniSeMiConfig(ramp_length=1.0), space, SCALE_WEIGHTS)


def versemi(space: LabelSpace) -> Method:
    return VerSemi(VerSemiConfig(ramp_length=1.0), space, SCALE_WEIGHTS)


METHODS = {"Supervised": supervised, "UniSeMi": unisemi, "VerSemi": versemi, "DBiSL": dbisl_method}
NETWORKS = {"Supervised": lambda space: stock_network(1 + space.num_prompts), "DBiSL": dbisl_network}


def trajectory(name: str) -> list[dict[str, float]]:
    """Terms and their weighted sum in each step, two tasks in two dimensions."""
    space = SPACES["tasks"]
    method, draw = METHODS[name](space), generator(0)
    network = NETWORKS.get(name, prompted_network)(space)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True)
    rows = []
    for n in range(STEPS):
        terms = method.losses(network, make_batch(space, seed=n), n / STEPS, draw)
        loss = total_loss(terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rows.append({k: round(v.item(), 6) for k, (v, _) in terms.items()} | {"loss": round(loss.item(), 6)})
    return rows


@pytest.mark.parametrize("name", METHODS)
def test_trajectory(name):
    golden = json.loads(FILE.read_text())[name]
    rows = trajectory(name)
    assert len(rows) == len(golden)
    for row, expected in zip(rows, golden, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)


def test_every_method_has_a_trajectory():
    assert sorted(json.loads(FILE.read_text())) == sorted(METHODS)
