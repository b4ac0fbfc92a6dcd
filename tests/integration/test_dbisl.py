"""DBiSL in nnU-Net's loop, in this process: training, prediction, checkpoints, export, kinds of datasets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_ssl.cli import main
from nnunet_ssl.nn.multi_decoder import TRAINING_ONLY
from nnunet_ssl.nn.task_decoders import TwoBranchUNet
from tests.integration.conftest import Workspace
from tests.integration.test_trainers import losses, with_options
from tests.integration.test_training import history

pytestmark = pytest.mark.integration

ONE, TWO, BOTH, REGIONS = "Dataset901_One", "Dataset902_Two", "Dataset903_Both", "Dataset905_Regions"
FLAT, DBISL, STOCK = "Dataset904_Flat", "nnUNetTrainerDBiSL", "nnUNetTrainer"
TERMS = {
    *("segmentation", "regression", "cross_regression", "cross_segmentation"),
    *("consistency_segmentation", "consistency_regression", "consistency_s2r", "consistency_r2s"),
    *("pseudo", "confident", "confident_foreground", "agreement"),
}
Make = Callable[..., Any]


def train(trainer: Any) -> Path:
    """All epochs; the model's folder."""
    trainer.run_training()
    return Path(trainer.output_folder_base)


def predicted(model: Path, images: Path) -> dict[str, np.ndarray]:
    """Segmentations of a folder's scans, as nnU-Net's predictor makes them of a model folder."""
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
    reader = determine_reader_writer_from_dataset_json(predictor.dataset_json)()
    results = {}
    for file in sorted(images.iterdir()):
        image, properties = reader.read_images([str(file)])
        results[file.name] = predictor.predict_single_npy_array(image, properties)
    return results


@pytest.mark.parametrize(
    ("dataset", "configuration", "branches"), [(ONE, "3d_fullres", "first"), (FLAT, "2d", "mean")]
)
def test_train_and_predict(
    here: Workspace, make_trainer: Make, dataset: str, configuration: str, branches: str, tmp_path: Path
) -> None:
    """Two epochs: curves, pictures; prediction; export where the network is stock."""
    with with_options(here, dataset, inference_branches=branches, ramp_length=1.0):
        model = train(make_trainer(dataset, DBISL, configuration=configuration))
    fold, images = model / "fold_0", here.root / "raw" / dataset / "imagesTs"
    curves = history(fold / "checkpoint_final.pth")
    assert {k.removeprefix("ssl/") for k in curves if k.startswith("ssl/")} == TERMS
    assert all(np.isfinite(curves[f"ssl/{term}"]).all() for term in TERMS)
    beta = curves["ssl_weight/pseudo"]
    assert 0 < beta[0] < beta[1] < 1 and curves["ssl_weight/confident"] == [0, 0]
    assert imread(fold / "previews" / "epoch_0002.png").std() > 0.05
    assert json.loads((fold / "ssl_config.json").read_text())["options"]["inference_branches"] == branches

    ours = predicted(model, images)
    shape = {"3d_fullres": (16, 24, 24), "2d": (1, 32, 32)}[configuration]
    assert [s.shape for s in ours.values()] == [shape] * 2
    weights = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert any(k.startswith(TRAINING_ONLY) for k in weights)
    if branches == "mean":
        return
    assert main(["export", "-m", str(model), "-f", "0", "-o", str(tmp_path / "stock")]) == 0
    description = json.loads((tmp_path / "stock" / "plans.json").read_text())
    assert "nnunet_ssl" not in description
    exported = torch.load(tmp_path / "stock" / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert exported["trainer_name"] == STOCK
    assert not any(k.startswith(TRAINING_ONLY) for k in exported["network_weights"])
    theirs = predicted(tmp_path / "stock", images)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("dataset", [ONE, TWO, BOTH, REGIONS])
def test_every_kind_of_dataset(make_trainer: Make, dataset: str) -> None:
    trainer = make_trainer(dataset, DBISL)
    for output in losses(trainer, 2):
        assert {f"ssl/{term}" for term in TERMS} <= output.keys()
        assert all(np.isfinite(value) for value in output.values())
    if dataset == TWO:  # anisotropic
        assert trainer.method.transforms.spacing == (4.0, 1.0, 1.0)
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(next(trainer.dataloader_val))["loss"])


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, ["second", "regression", "second_regression"]),
        ({"second_decoder": False}, ["regression"]),
        ({"regression_task": False}, ["second"]),
    ],
)
def test_what_has_no_loss_is_not_built(
    here: Workspace, make_trainer: Make, options: dict[str, bool], parts: list[str]
) -> None:
    with with_options(here, ONE, **options):
        trainer = make_trainer(ONE, DBISL)
    output = losses(trainer, 1)[0]
    assert sorted(trainer.network.training_only["seg_layers"]) == sorted(parts)
    assert np.isfinite(output["loss"])
    assert ("ssl/regression" in output) == ("regression" in parts)


def test_the_mean_predicts_with_both_decoders_and_no_regression(here: Workspace, make_trainer: Make) -> None:
    with with_options(here, REGIONS, inference_branches="mean"):
        trainer = make_trainer(REGIONS, DBISL)
    losses(trainer, 1)
    predicting = trainer.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, enable_deep_supervision=False
    )
    predicting.load_state_dict(trainer.network.state_dict())
    assert isinstance(predicting, TwoBranchUNet)
    assert list(predicting.training_only["seg_layers"]) == ["second"]
    x = torch.randn(1, 1, 16, 24, 24)
    trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    with torch.no_grad():
        torch.testing.assert_close(predicting.eval()(x), trainer.network(x))
        branches = trainer.method.run(trainer.network, x)
        expected = sum(b.segmentation[0].sigmoid() for b in branches) / 2
        torch.testing.assert_close(predicting(x).sigmoid(), expected)
