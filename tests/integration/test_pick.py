"""PICK through the stock commands and in this process: files, prediction, resuming, kinds of datasets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnunet_ssl.nn.multi_decoder import TRAINING_ONLY
from tests.integration.conftest import Workspace
from tests.integration.test_trainers import edited, losses
from tests.integration.test_training import assert_resumed_equals_whole, history

pytestmark = pytest.mark.integration

ONE, TWO, BOTH, REGIONS = "Dataset901_One", "Dataset902_Two", "Dataset903_Both", "Dataset905_Regions"
FLAT, PICK, STOCK = "Dataset904_Flat", "nnUNetTrainerPICK", "nnUNetTrainer"
LABELED = ("primary", "mim_labeled", "aux_labeled", "empty_labeled", "foreground_labeled")
UNLABELED = ("mim_unlabeled", "aux_unlabeled", "empty_unlabeled", "foreground_unlabeled")


@pytest.fixture(scope="module")
def pick(workspace: Workspace) -> Workspace:
    """Plans ``pick``: an epoch of warm-up, then one with unlabelled terms."""
    for dataset, patch, configuration in (
        (901, "16,24,24", None),
        (904, "32,32", "2d"),
        (905, "16,24,24", None),
    ):
        options = (f"patch_size={patch}", "warmup=0.5")
        workspace.configure(dataset, "pick", *options, configuration=configuration or "3d_fullres")
    return workspace


def without_warmup(work: Workspace, dataset: str, **options: float) -> AbstractContextManager[None]:
    """Plans ``small`` with other options for the time of a test."""
    plans = work.preprocessed(dataset) / "small.json"
    return edited(plans, lambda p: p["nnunet_ssl"]["options"].update(warmup=0.0, **options))


@pytest.fixture(scope="module")
def trained(pick: Workspace) -> Path:
    """PICK on the single dataset, two epochs, validated."""
    pick.train(901, "3d_fullres", 0, "-p", "pick", "-tr", PICK)
    return pick.fold(ONE, PICK, "pick")


def predict(work: Workspace, dataset: int, output: Path, configuration: str = "3d_fullres") -> list[str]:
    """Predict the test scans and evaluate them; names of what was predicted."""
    raw = next((work.root / "raw").glob(f"Dataset{dataset}_*"))
    model = ("-d", dataset, "-f", 0, "-c", configuration, "-p", "pick", "-tr", PICK)
    workers = ("-device", "cpu", "-npp", 1, "-nps", 1)
    work.run("nnUNetv2_predict", "-i", raw / "imagesTs", "-o", output, *model, *workers)
    command = ("nnUNetv2_ssl", "evaluate", "-ref", raw / "labelsTs", "-pred", output, "-d", dataset, "-np", 1)
    assert "Dice" in work.run(*command).stdout
    return sorted(p.name for p in output.iterdir() if p.name.startswith("t"))


def test_curves_pictures_and_options(trained: Path) -> None:
    curves = history(trained / "checkpoint_final.pth")
    assert all(np.isfinite(curves[f"ssl/{term}"]).all() for term in LABELED)
    for term in UNLABELED:
        assert np.isnan(curves[f"ssl/{term}"][0]) and np.isfinite(curves[f"ssl/{term}"][1])
    assert curves["ssl_weight/mim_unlabeled"][1] == 0.2 and curves["ssl_weight/empty_unlabeled"][1] == 0
    log = "".join(file.read_text() for file in trained.glob("training_log_*.txt"))
    assert "'empty_labeled'" in log and "'empty_unlabeled'" in log
    assert (trained / "progress_ssl.png").is_file()
    for epoch in (1, 2):
        assert imread(trained / "previews" / f"epoch_000{epoch}.png").std() > 0.05
    options = json.loads((trained / "ssl_config.json").read_text())["options"]
    assert options["warmup"] == 0.5 and options["pick_mask"] == "attentive"


def test_predict_evaluate_and_val(trained: Path, pick: Workspace, tmp_path: Path) -> None:
    assert predict(pick, 901, tmp_path) == ["t0.nii.gz", "t1.nii.gz"]
    for flags in (("--val",), ("--val", "--val_best")):
        shutil.rmtree(trained / "validation")
        pick.train(901, "3d_fullres", 0, "-p", "pick", "-tr", PICK, *flags)
        assert (trained / "validation" / "summary.json").is_file()


@pytest.mark.parametrize(
    ("dataset", "folder", "configuration"), [(904, FLAT, "2d"), (905, REGIONS, "3d_fullres")]
)
def test_two_dimensions_and_regions(
    pick: Workspace, dataset: int, folder: str, configuration: str, tmp_path: Path
) -> None:
    pick.train(dataset, configuration, 0, "-p", "pick", "-tr", PICK)
    fold = pick.fold(folder, PICK, "pick", configuration)
    assert np.isfinite(history(fold / "checkpoint_final.pth")["ssl/aux_unlabeled"][1])
    assert imread(fold / "previews" / "epoch_0002.png").std() > 0.05
    assert (fold / "validation" / "summary.json").is_file()
    assert len(predict(pick, dataset, tmp_path, configuration)) == 2


def test_resumed_equals_uninterrupted(pick: Workspace) -> None:
    """Killed in the warm-up, continued beyond it."""
    for name in ("pick_whole", "pick_killed"):
        pick.configure(901, name, "patch_size=16,24,24", "num_epochs=4", "warmup=0.5")
    assert_resumed_equals_whole(pick, PICK, "pick_killed", "pick_whole")


# In this process


@pytest.mark.parametrize("dataset", [ONE, TWO, BOTH, REGIONS])
def test_every_kind_of_dataset(here: Workspace, make_trainer: Callable[..., Any], dataset: str) -> None:
    with without_warmup(here, dataset):
        trainer = make_trainer(dataset, PICK)
    outputs = losses(trainer, 2)
    for output in outputs:
        assert {f"ssl/{term}" for term in (*LABELED, *UNLABELED)} <= output.keys()
        assert all(np.isfinite(value) for value in output.values())
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(next(trainer.dataloader_val))["loss"])


def test_a_stock_trainer_loads_the_checkpoint(trained: Path, make_trainer: Callable[..., Any]) -> None:
    """Without the training-only keys; and our prediction network is as large and gives the same."""
    weights = torch.load(trained / "checkpoint_final.pth", weights_only=False)["network_weights"]
    stock = make_trainer(ONE, STOCK, "pick")
    stock.initialize()
    stock.network.load_state_dict({k: v for k, v in weights.items() if not k.startswith(TRAINING_ONLY)})
    ours = make_trainer(ONE, PICK, "pick")
    predicting = ours.build_network_architecture(ours.plans_manager, ours.configuration_manager, 1, 2, False)
    predicting.load_state_dict(weights)
    assert {k: v.shape for k, v in predicting.state_dict().items()} == {
        k: v.shape for k, v in stock.network.state_dict().items()
    }
    x = torch.randn(1, 1, 16, 24, 24)
    with torch.no_grad():
        assert torch.equal(predicting.eval()(x), stock.network.eval()(x)[0])


def test_weights_of_stock_nnunet_can_start_it(make_trainer: Callable[..., Any], tmp_path: Path) -> None:
    stock, ours = make_trainer(ONE, STOCK), make_trainer(ONE, PICK)
    for trainer in (stock, ours):
        trainer.initialize()
    torch.save({"network_weights": stock.network.state_dict()}, tmp_path / "stock.pth")
    load_pretrained_weights(ours.network, str(tmp_path / "stock.pth"))
    for mine, theirs in zip(
        ours.network.encoder.parameters(), stock.network.encoder.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("options", "decoders"),
    [
        ({"weight_mim": 0.0}, ["auxiliary"]),
        ({"weight_auxiliary": 0}, ["mim"]),
        ({"weight_mim": 0, "weight_auxiliary": 0}, []),
    ],
)
def test_decoders_without_a_loss_are_not_built(
    here: Workspace, make_trainer: Callable[..., Any], options: dict[str, float], decoders: list[str]
) -> None:
    with without_warmup(here, ONE, **options):
        trainer = make_trainer(ONE, PICK)
    output = losses(trainer, 1)[0]
    assert list(trainer.network.training_only["seg_layers"]) == decoders
    assert np.isfinite(output["loss"])
    assert {"ssl/mim_unlabeled", "ssl/aux_unlabeled"} & output.keys() == {
        f"ssl/{d[:3]}_unlabeled" for d in decoders
    }
    assert trainer.method.uses_unlabeled == bool(decoders)
