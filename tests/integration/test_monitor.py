"""The pseudo-label monitor in real trainings: the same weights with and without it; hidden labels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.conftest import Workspace
from tests.integration.test_trainers import BOTH, ONE, REGIONS, SUPERVISED, edited, hidden

pytestmark = pytest.mark.integration

TEACHER = "nnUNetTrainerMeanTeacher"
WATCHED = ("coverage", "confidence", "agreement", "hidden_dice")
Make = Callable[..., Any]


def trained(make: Make, here: Workspace, dataset: str, trainer: str, **options: Any) -> Any:
    """Two epochs of two updates; nothing is validated."""
    with edited(
        here.preprocessed(dataset) / "small.json", lambda p: p["nnunet_ssl"]["options"].update(options)
    ):
        made = make(dataset, trainer)
    made.on_train_start()
    for made.current_epoch in range(2):
        made.on_epoch_start()
        made.on_train_epoch_start()
        made.on_train_epoch_end([made.train_step(next(made.dataloader_train)) for _ in range(2)])
    return made


def curves(trainer: Any) -> dict[str, list[float]]:
    history = trainer.logger.local_logger.my_fantastic_logging
    return {key.removeprefix("ssl_monitor/"): v for key, v in history.items() if "monitor" in key}


def assert_same_training(one: Any, other: Any) -> None:
    weights = other.network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in one.network.state_dict().items())
    assert torch.equal(one.generator.get_state(), other.generator.get_state())
    history = other.logger.local_logger.my_fantastic_logging
    for key, values in one.logger.local_logger.my_fantastic_logging.items():
        if key == "train_losses" or key.startswith("ssl/"):
            assert values == history[key] and len(values) == 2


def test_training_is_the_same_with_and_without(make_trainer: Make, here: Workspace) -> None:
    without = trained(make_trainer, here, ONE, TEACHER, monitor_batches=0)
    assert without.monitor is None and curves(without) == {}
    watched = trained(make_trainer, here, ONE, TEACHER, monitor_hidden_labels=True)
    assert_same_training(without, watched)
    found = curves(watched)
    assert set(found) == set(WATCHED) and all(len(values) == 2 for values in found.values())
    assert 0 <= min(found["hidden_dice"]) and max(found["coverage"]) <= 1
    log = "".join(file.read_text() for file in Path(watched.output_folder).glob("training_log_*.txt"))
    names = ", ".join(sorted(hidden(here, ONE)))
    assert f"monitor_hidden_labels=true: hidden labels of {names} are read" in log
    assert "pseudo-labels {'coverage':" in log
    config = json.loads((Path(watched.output_folder) / "ssl_config.json").read_text())
    assert config["options"]["monitor_hidden_labels"] is True


def test_hidden_labels_are_read_on_demand_only(make_trainer: Make, here: Workspace) -> None:
    folder = here.preprocessed(ONE) / "nnUNetPlans_3d_fullres"
    files = [folder / f"{case}{ending}" for case in hidden(here, ONE) for ending in ("_seg.b2nd", ".pkl")]
    backup = {file: file.read_bytes() for file in files}
    try:
        for file in files:
            file.unlink()
        watched = trained(make_trainer, here, ONE, TEACHER)
        assert set(curves(watched)) == {"coverage", "confidence", "agreement"}
        with pytest.raises((FileNotFoundError, RuntimeError)):
            trained(make_trainer, here, ONE, TEACHER, monitor_hidden_labels=True)
    finally:
        for file, content in backup.items():
            file.write_bytes(content)


@pytest.mark.parametrize("dataset", [BOTH, REGIONS])
def test_the_baseline_can_be_watched_too(make_trainer: Make, here: Workspace, dataset: str) -> None:
    found = curves(trained(make_trainer, here, dataset, SUPERVISED, monitor_hidden_labels=True))
    assert set(found) == {"hidden_dice"}  # it takes no unlabelled images, so there is no stream to look at
    assert all(0 <= value <= 1 or math.isnan(value) for value in found["hidden_dice"])


def test_usual_coverage_is_that_of_the_labelled_cases(make_trainer: Make, here: Workspace) -> None:
    made = trained(make_trainer, here, BOTH, TEACHER)
    wanted = made.monitor.wanted
    assert wanted.names == ("box", "left", "right")
    # boxes of 8 x 12 x 10 in 16 x 24 x 24 voxels; two of 4 x 16 x 8 in 8 x 32 x 32; either task is one half
    assert wanted.by_label[0] == pytest.approx(8 * 12 * 10 / (16 * 24 * 24) / 2, rel=0.15)
    assert wanted.by_label[1:] == pytest.approx([4 * 16 * 8 / (8 * 32 * 32) / 2] * 2, rel=0.15)
    assert wanted.coverage == pytest.approx(sum(wanted.by_label))
    log = made.logger.local_logger.my_fantastic_logging
    assert log["ssl_reference/coverage"] == [wanted.coverage] * 2
    assert [len(row) for row in log["ssl_monitor/coverage_by_label"]] == [3, 3]


def test_where_nothing_is_hidden_it_says_so(make_trainer: Make, here: Workspace) -> None:
    def edit(splits: Any) -> None:
        splits[0]["train"] += splits[0].pop("unlabeled")

    with edited(here.preprocessed(ONE) / "splits_final.json", edit):
        made = trained(make_trainer, here, ONE, SUPERVISED, monitor_hidden_labels=True)
    assert made.monitor is None
    log = "".join(file.read_text() for file in Path(made.output_folder).glob("training_log_*.txt"))
    assert "fold 0 hides no labels: nothing to watch" in log
