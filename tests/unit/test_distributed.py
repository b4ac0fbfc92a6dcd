"""Two processes give the gradients of one process with the same global batch (gloo, on the CPU)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.masks import sample_masks
from nnunet_ssl.methods import versemi
from nnunet_ssl.methods.base import Batch, Method, total_loss
from nnunet_ssl.methods.supervised import Supervised
from nnunet_ssl.methods.versemi import VerSemi, VerSemiConfig
from nnunet_ssl.targets import LabelSpace
from tests.unit.gloo import RANKS, in_processes
from tests.unit.test_dbisl import dbisl_method, dbisl_network
from tests.unit.toy import (
    SPACES,
    generator,
    make_batch,
    nnunet_loss,
    prompted_network,
    stock_network,
)

pytestmark = pytest.mark.integration

# nnU-Net's weights under DDP: the last is not 0, because every parameter must get a gradient
WEIGHTS = tuple(w / 1.500001 for w in (1.0, 0.5, 1e-6))
STEPS = 2
NAMES = ("Supervised", "VerSemi", "VerSemi task_info", "DBiSL", "DBiSL mean")
CASES = [(m, s) for m in NAMES for s in ("one_class", "tasks")]


def rows_of(rank: int) -> list[int]:
    """The global order is r0s0, r1s0, r0s1, r1s1: moving on by half the batch pairs samples of one rank."""
    return [rank, rank + RANKS]


def global_batch(space: LabelSpace, step: int) -> Batch:
    tasks = [0, 0, 1, 1] if len(space.table) > 1 else [0] * 4
    batch = make_batch(space, tasks=tasks, unlabeled=4, seed=step)
    return replace(batch, unlabeled_tasks=torch.tensor(tasks))


def part(batch: Batch, rows: list[int]) -> Batch:
    return Batch(
        batch.labeled[rows],
        [t[rows] for t in batch.targets],
        batch.tasks[rows],
        batch.unlabeled[rows],
        batch.unlabeled_tasks[rows],
    )


def parts_of_method(name: str, space: LabelSpace) -> tuple[Method, nn.Module]:
    if name == "Supervised":
        loss = nnunet_loss(space)
        loss.weight_factors = WEIGHTS
        return Supervised(loss, space, deep_supervision=True), stock_network(1 + space.num_prompts)
    if name.startswith("DBiSL"):
        mean = "mean" in name
        method = dbisl_method(space, inference_branches="mean" if mean else "first")
        method.loss.weight_factors = WEIGHTS
        return method, dbisl_network(space, mean=mean)
    config = VerSemiConfig(task_info="task_info" in name)
    return VerSemi(config, space, WEIGHTS), prompted_network(space)


class MasksBySample:
    """Stands in for ``sample_masks``: the global masks' rows of this rank."""

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows

    def __call__(self, kind: Any, count: int, shape: Any, ratio: Any, draw: Any, ratio_of: Any) -> Any:
        assert count == len(self.rows)
        return sample_masks(kind, 2 * RANKS, shape, ratio, draw, ratio_of)[self.rows]


def train(method: Method, network: nn.Module, space: LabelSpace, rows: list[int]) -> dict[str, list[Any]]:
    """A few updates on some rows of the global batches: gradients of the first, weights after the last."""
    versemi.sample_masks = MasksBySample(rows)
    optimizer, draw = torch.optim.SGD(network.parameters(), 0.1), generator()
    gradients: list[Any] = []
    for step in range(STEPS):
        optimizer.zero_grad()
        batch = part(global_batch(space, step), rows)
        total_loss(method.losses(network, batch, 1.0, draw)).backward()
        gradients = gradients or [p.grad.clone() for p in network.parameters()]
        optimizer.step()
    return {"gradients": gradients, "weights": [p.detach().clone() for p in network.parameters()]}


def train_part(rank: int) -> dict[tuple[str, str], Any]:
    results = {}
    for name, space in CASES:
        method, network = parts_of_method(name, SPACES[space])
        results[name, space] = train(method, DistributedDataParallel(network), SPACES[space], rows_of(rank))
    return results


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    return in_processes(train_part, tmp_path_factory.mktemp("ddp"))


@pytest.mark.parametrize(("name", "space"), CASES)
def test_two_processes_equal_one(name, space, distributed, monkeypatch):
    monkeypatch.setattr(versemi, "sample_masks", sample_masks)  # restored afterwards
    method, network = parts_of_method(name, SPACES[space])
    one = train(method, network, SPACES[space], [0, 1, 2, 3])
    for two in distributed:
        for key in ("gradients", "weights"):
            for mine, theirs in zip(one[key], two[name, space][key], strict=True):
                assert torch.allclose(mine, theirs, atol=1e-5), key
