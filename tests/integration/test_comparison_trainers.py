"""Mean Teacher and BCP in nnU-Net's loop: every kind of dataset, checkpoints, resuming, two processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.methods.base import total_loss
from nnunet_ssl.methods.bcp import BCP, BCPConfig
from nnunet_ssl.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from nnunet_ssl.nn.ema import STUDENT, TEACHER, num_updates, teacher_and_student
from nnunet_ssl.nn.multi_decoder import TRAINING_ONLY
from tests.integration.conftest import Workspace
from tests.integration.test_trainers import edited, losses
from tests.unit.gloo import in_processes
from tests.unit.toy import SPACES, generator, make_batch, nnunet_loss, stock_network

pytestmark = pytest.mark.integration

ONE, TWO, BOTH, REGIONS = "Dataset901_One", "Dataset902_Two", "Dataset903_Both", "Dataset905_Regions"
MEAN_TEACHER, BIDIRECTIONAL = "nnUNetTrainerMeanTeacher", "nnUNetTrainerBCP"
TRAINERS = pytest.mark.parametrize("name", [MEAN_TEACHER, BIDIRECTIONAL])
Make = Callable[..., Any]


def other(name: str) -> str:
    """What lies beside the network of the planned names."""
    return STUDENT if name == MEAN_TEACHER else TEACHER


@TRAINERS
@pytest.mark.parametrize("dataset", [ONE, TWO, BOTH, REGIONS])
def test_every_kind_of_dataset_trains_and_validates(make_trainer: Make, dataset: str, name: str) -> None:
    trainer = make_trainer(dataset, name)
    outputs = losses(trainer, 4)
    assert all(np.isfinite(value) for output in outputs for value in output.values())
    assert "ssl/unlabeled" in outputs[-1]
    assert ("ssl/unlabeled" in outputs[0]) == (name == MEAN_TEACHER)  # BCP begins with its warm-up
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        output = trainer.validation_step(next(trainer.dataloader_val))
    assert np.isfinite(output["loss"])
    assert output["tp_hard"].shape == (len(trainer.task_table.prompts),)


@TRAINERS
def test_both_networks_move_apart_and_only_one_learns(make_trainer: Make, name: str) -> None:
    trainer = make_trainer(ONE, name)
    losses(trainer, 4)
    assert num_updates(trainer.network) == 4
    planned = {n: p for n, p in trainer.network.named_parameters() if not n.startswith(TRAINING_ONLY)}
    apart = dict(trainer.network.extra(other(name)).named_parameters())
    teacher = planned if name == MEAN_TEACHER else apart
    assert not any(p.requires_grad for p in teacher.values())
    assert any(not torch.equal(p, apart[n]) for n, p in planned.items())


@TRAINERS
def test_validation_asks_the_planned_network(make_trainer: Make, name: str) -> None:
    trainer = make_trainer(ONE, name)
    losses(trainer, 1)
    with torch.no_grad():
        for p in trainer.network.extra(other(name)).parameters():
            p.fill_(float("nan"))
        trainer.on_validation_epoch_start()
        assert np.isfinite(trainer.validation_step(next(trainer.dataloader_val))["loss"])


@pytest.mark.parametrize("dataset", [ONE, TWO, REGIONS])
@pytest.mark.parametrize("ignore", [False, True])
def test_masked_loss_of_everything_is_nnunets_loss(
    make_trainer: Make, here: Workspace, dataset: str, ignore: bool
) -> None:
    def edit(dataset_json: Any) -> None:
        if not ignore:
            dataset_json["labels"].pop("ignore", None)

    if ignore and dataset != REGIONS:
        pytest.skip("has no ignore label")
    with edited(here.preprocessed(dataset) / "dataset.json", edit):
        trainer = make_trainer(dataset, BIDIRECTIONAL)
        trainer.initialize()
    assert trainer.label_manager.has_ignore_label == ignore
    channels, shape = (
        trainer.label_manager.num_segmentation_heads,
        (2, *trainer.configuration_manager.patch_size),
    )
    outputs, targets, masked, draw = [], [], [], generator()
    for scale in trainer._get_deep_supervision_scales():
        size = [round(s * f) for s, f in zip(shape[1:], scale, strict=True)]
        outputs.append(torch.randn(2, channels, *size, generator=draw))
        if trainer.label_manager.has_regions:
            target = torch.rand(2, channels + ignore, *size, generator=draw) > 0.7
        else:
            target = torch.randint(channels, (2, 1, *size), generator=draw, dtype=torch.int16)
        targets.append(target)
        everything = torch.ones(2, 1, *size, dtype=torch.bool)
        masked.append(trainer.space.with_ignore_label().masked(target, everything))
    expected = trainer.loss(outputs, targets)
    torch.testing.assert_close(trainer.method.loss(outputs, masked), expected)
    torch.testing.assert_close(
        trainer.method.full_loss(outputs[0], masked[0]), trainer.loss.loss(outputs[0], targets[0])
    )
    if trainer.label_manager.has_regions and not ignore:  # as of a task that has some of the regions
        some, known = ([t[:, :1] for t in tensors] for tensors in (outputs, targets))
        taught = [t[:, [0, -1]] for t in masked]
        torch.testing.assert_close(trainer.method.loss(some, taught), trainer.loss(some, known))


def epochs(trainer: Any, count: int) -> list[float]:
    """Run some epochs as ``run_training`` does; the loss of every update."""
    found = []
    for _ in range(count):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        outputs = [
            trainer.train_step(next(trainer.dataloader_train))
            for _ in range(trainer.num_iterations_per_epoch)
        ]
        trainer.on_train_epoch_end(outputs)
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
        trainer.on_epoch_end()
        found += [float(o["loss"]) for o in outputs]
    return found


@TRAINERS
@pytest.mark.parametrize("warmup", [0.2, 0.5])
def test_resumed_equals_uninterrupted(
    make_trainer: Make, here: Workspace, tmp_path: Path, name: str, warmup: float
) -> None:
    def edit(plans: Any) -> None:
        plans["nnunet_ssl"]["options"].update(num_epochs=4, warmup=warmup, save_every=100)

    with edited(here.preprocessed(ONE) / "small.json", edit):
        whole = make_trainer(ONE, name)
        whole.on_train_start()
        expected = epochs(whole, 2)
        file = str(tmp_path / "half.pth")
        whole.current_epoch -= 1  # nnU-Net saves before it counts the epoch
        whole.save_checkpoint(file)
        whole.current_epoch += 1
        expected = epochs(whole, 2)
        resumed = make_trainer(ONE, name)
        resumed.load_checkpoint(file)
        resumed.on_train_start()
        assert epochs(resumed, 2) == pytest.approx(expected, rel=1e-5)
    for key, value in whole.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[key], value, msg=key)


@TRAINERS
def test_through_the_stock_commands(workspace: Workspace, tmp_path: Path, name: str) -> None:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    workspace.train(904, "2d", "all", "-p", "small", "-tr", name)
    fold = workspace.fold("Dataset904_Flat", name, "small", "2d", "all")
    assert (fold / "validation" / "summary.json").is_file()
    plans = PlansManager(str(fold.parent / "plans.json")).get_configuration("2d")
    stock = get_network_from_plans(
        plans.network_arch_class_name,
        plans.network_arch_init_kwargs,
        plans.network_arch_init_kwargs_req_import,
        1,
        2,
    )
    weights = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert any(k.startswith(TRAINING_ONLY) for k in weights)
    stock.load_state_dict({k: v for k, v in weights.items() if not k.startswith(f"{TRAINING_ONLY}.")})
    images = workspace.root / "raw" / "Dataset904_Flat" / "imagesTs"
    predict = (
        "nnUNetv2_predict",
        "-i",
        images,
        "-d",
        904,
        "-f",
        "all",
        "-c",
        "2d",
        "-p",
        "small",
        "-tr",
        name,
    )
    workspace.run(*predict, "-o", tmp_path, "-device", "cpu", "-npp", 1, "-nps", 1)
    assert len(list(tmp_path.glob("*.png"))) == 2


# Two processes


CASES = {
    f"{method} {space}": (method, SPACES[space])
    for method in (MEAN_TEACHER, BIDIRECTIONAL)
    for space in ("one_class", "tasks")
}


def distributed_steps(case: str, rank: int) -> dict[str, torch.Tensor]:
    """Three updates on data of one's own; all weights afterwards."""
    name, space = CASES[case]
    loss = nnunet_loss(space if name == MEAN_TEACHER else space.with_ignore_label())
    loss.weight_factors = tuple(w / 1.500001 for w in (1.0, 0.5, 1e-6))  # nnU-Net's under DDP
    method = (
        MeanTeacher(MeanTeacherConfig(), loss, space, True)
        if name == MEAN_TEACHER
        else BCP(BCPConfig(), loss, loss.loss, space, True)
    )
    first, second = (stock_network(1 + space.num_prompts, seed=10 * rank + s) for s in (0, 1))
    pair = teacher_and_student(first, second, TEACHER if name == MEAN_TEACHER else STUDENT)
    network, draw = DistributedDataParallel(pair), generator(rank)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    for n in range(3):
        optimizer.zero_grad()
        batch = make_batch(space, seed=100 * rank + n)
        total_loss(method.losses(network, batch, n / 3, draw)).backward()
        optimizer.step()
        method.after_update(network, (n + 1) / 3)
    return dict(pair.state_dict())


def train_part(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    return {name: distributed_steps(name, rank) for name in CASES}


def test_two_processes_stay_together(tmp_path: Path) -> None:
    one, two = in_processes(train_part, tmp_path)
    for case, weights in one.items():
        for key, value in weights.items():
            torch.testing.assert_close(value, two[case][key], msg=f"{case} {key}")
        assert weights[f"{TRAINING_ONLY}.seg_layers.average.updates"] == 3
