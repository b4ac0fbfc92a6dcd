"""Exported models predict what the originals predict: by stock nnU-Net alone where their network is stock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.integration.conftest import Workspace
from tests.integration.test_trainers import losses

pytestmark = pytest.mark.integration

BOTH, REGIONS = "Dataset903_Both", "Dataset905_Regions"
Make = Callable[..., Any]
PREDICT = "nnunetv2.inference.predict_from_raw_data"
FAST = ("-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta", "--disable_progress_bar")

# Runs an entry point of nnU-Net where nnunet_ssl cannot be imported
BLOCKED = """
import sys, importlib
for name in [n for n in sys.modules if n.split(".")[0] == "nnunet_ssl"]:
    del sys.modules[name]  # start-up files of an installation import it
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nnunet_ssl":
            raise ModuleNotFoundError(name)
if __name__ == "__main__":
    sys.meta_path.insert(0, Block())
    module, function = sys.argv.pop(1).split(":")
    getattr(importlib.import_module(module), function)()
"""


def without_plugin(workspace: Workspace, results: Path, entry: str, *arguments: object) -> str:
    """Run nnU-Net as on a machine that has never heard of us."""
    env = {**os.environ, **workspace.env, "nnUNet_results": str(results), "NNUNET_SSL_NO_AUTODISCOVERY": "1"}
    env.pop("nnUNet_extTrainer", None)
    script = workspace.root / "blocked.py"  # a file, because worker processes import it again
    script.write_text(BLOCKED)
    finished = subprocess.run(
        [sys.executable, script, entry, *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-2000:]
    return finished.stdout


def train(make_trainer: Make, dataset: str, name: str, fold: Any = 0) -> Path:
    """A model folder after a few updates."""
    trainer = make_trainer(dataset, name, fold=fold)
    losses(trainer, 3)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    trainer.dataloader_train.close()
    return Path(trainer.output_folder_base)


def predict(
    workspace: Workspace, dataset: str, model: Path, output: Path, folds: str = "0", **env: str
) -> Path:
    """Stock prediction with the plugin at hand."""
    trainer, plans, configuration = model.name.split("__")
    images = workspace.root / "raw" / dataset / "imagesTs"
    command = ("nnUNetv2_predict", "-i", images, "-o", output, "-d", dataset, "-c", configuration)
    workspace.run(*command, "-p", plans, "-tr", trainer, "-f", *folds.split(), *FAST, **env)
    return output


def segmentations(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.nii.gz"))
    assert files
    return {f.name: sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in files}


def assert_same(before: Path, after: Path, numbers: dict[int, int]) -> None:
    """Each value of one folder is another one in the other; all of them occur."""
    one, two = segmentations(before), segmentations(after)
    assert one.keys() == two.keys()
    for name, array in one.items():
        expected = np.zeros_like(array)
        for old, new in numbers.items():
            expected[array == old] = new
        np.testing.assert_array_equal(two[name], expected, err_msg=name)
    found = set(np.unique(np.concatenate([a.ravel() for a in two.values()])))
    assert found & set(numbers.values())
    assert found <= {0, *numbers.values()}


def export(workspace: Workspace, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return workspace.run("nnUNetv2_ssl", "export", *arguments, check=check)


@pytest.fixture
def teacher(make_trainer: Make) -> Path:
    """Mean Teacher on two tasks, folds 0 and all."""
    train(make_trainer, BOTH, "nnUNetTrainerMeanTeacher", "all")
    return train(make_trainer, BOTH, "nnUNetTrainerMeanTeacher")


def test_all_labels_of_an_ensemble_without_plugin(
    workspace: Workspace, teacher: Path, tmp_path: Path
) -> None:
    name = ("-d", 903, "-c", "3d_fullres", "-p", "small", "-tr", "nnUNetTrainerMeanTeacher")
    printed = export(workspace, *name, "-f", "0", "all", "-o", tmp_path / "model").stdout
    assert f"-m {tmp_path / 'model'} -f 0 all" in printed and "needs nnunet-ssl" not in printed
    files = {str(p.relative_to(tmp_path / "model")) for p in (tmp_path / "model").rglob("*") if p.is_file()}
    checkpoints = {"fold_0/checkpoint_final.pth", "fold_all/checkpoint_final.pth"}
    assert {"plans.json", "dataset.json", "dataset_fingerprint.json", *checkpoints} <= files
    for file in checkpoints:
        checkpoint = torch.load(tmp_path / "model" / file, weights_only=False)
        assert checkpoint["trainer_name"] == "nnUNetTrainer"
        assert not [k for k in checkpoint["network_weights"] if "training_only" in k]
        assert not {"optimizer_state", "ssl_state", "logging"} & set(checkpoint)
        assert checkpoint["init_args"]["plans"] == json.loads((tmp_path / "model/plans.json").read_text())
        assert (tmp_path / "model" / file).stat().st_size < (teacher / file).stat().st_size / 2

    before = predict(workspace, BOTH, teacher, tmp_path / "before", "0 all")
    images = workspace.root / "raw" / BOTH / "imagesTs"
    command = ("-i", images, "-o", tmp_path / "after", "-m", tmp_path / "model", "-f", "0", "all", *FAST)
    without_plugin(workspace, tmp_path, f"{PREDICT}:predict_entry_point_modelfolder", *command)
    assert_same(before, tmp_path / "after", {1: 1, 2: 2, 3: 3})


def test_one_task_as_a_zip_without_plugin(workspace: Workspace, make_trainer: Make, tmp_path: Path) -> None:
    model = train(make_trainer, BOTH, "nnUNetTrainerBCP")
    archive = tmp_path / "two.zip"
    printed = export(workspace, "-m", model, "--task", "two", "-o", archive).stdout
    place = "Dataset903_Both/nnUNetTrainer__small_BCP_two__3d_fullres"
    with zipfile.ZipFile(archive) as content:
        assert f"{place}/plans.json" in content.namelist()
        assert all(name.startswith(place) for name in content.namelist())
    assert not list(tmp_path.glob(".two*"))
    results = tmp_path / "results"
    results.mkdir()
    without_plugin(
        workspace, results, "nnunetv2.model_sharing.entry_points:install_from_zip_entry_point", archive
    )
    described = json.loads((results / place / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "left": 1, "right": 2}
    typed = next(line for line in printed.splitlines() if "nnUNetv2_predict " in line).split()[1:]
    images = workspace.root / "raw" / BOTH / "imagesTs"
    known = [str({"IN": images, "OUT": tmp_path / "after"}.get(word, word)) for word in typed]
    without_plugin(workspace, results, f"{PREDICT}:predict_entry_point", *known, *FAST)
    before = predict(workspace, BOTH, model, tmp_path / "before", nnUNet_ssl_task="Two")
    assert_same(before, tmp_path / "after", {2: 1, 3: 2})


def test_one_region_without_plugin(workspace: Workspace, make_trainer: Make, tmp_path: Path) -> None:
    model = train(make_trainer, REGIONS, "nnUNetTrainerSSLSupervised")
    export(workspace, "-m", model, "--task", "core", "-o", tmp_path / "model")
    images = workspace.root / "raw" / REGIONS / "imagesTs"
    command = ("-i", images, "-o", tmp_path / "after", "-m", tmp_path / "model", "-f", 0, *FAST)
    without_plugin(workspace, tmp_path, f"{PREDICT}:predict_entry_point_modelfolder", *command)
    before = predict(workspace, REGIONS, model, tmp_path / "before", nnUNet_ssl_task="core")
    assert_same(before, tmp_path / "after", {2: 1})


def test_a_prompted_model_keeps_its_trainer(workspace: Workspace, make_trainer: Make, tmp_path: Path) -> None:
    model = train(make_trainer, BOTH, "nnUNetTrainerVerSemi")
    results = tmp_path / "results" / BOTH
    for task, numbers in ((None, {1: 1, 2: 2, 3: 3}), ("Two", {2: 2, 3: 3})):
        output = results / f"nnUNetTrainerVerSemi__small_{task}__3d_fullres"
        wish = ("--task", task) if task else ()
        assert "needs nnunet-ssl" in export(workspace, "-m", model, *wish, "-o", output).stdout
        asked = {"nnUNet_ssl_task": task} if task else {}
        before = predict(workspace, BOTH, model, tmp_path / f"before_{task}", **asked)
        elsewhere = {"nnUNet_results": str(results.parent)}
        after = predict(workspace, BOTH, output, tmp_path / f"after_{task}", **elsewhere)
        assert_same(before, after, numbers)


def test_a_wish_in_the_environment_does_not_enter(
    workspace: Workspace, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_ssl_task", "One")
    export(workspace, "-m", teacher, "-o", tmp_path / "model")
    monkeypatch.delenv("nnUNet_ssl_task")
    checkpoint = torch.load(tmp_path / "model" / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "liver"), "Known tasks: One (labels: box); Two (labels: left, right)"),
        (("-f", "4"), "fold(s) 4"),
        (("-chk", "checkpoint_best.pth"), "checkpoint_best.pth"),
    ],
)
def test_errors(
    workspace: Workspace, teacher: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    finished = export(workspace, "-m", teacher, *arguments, "-o", tmp_path / "model", check=False)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert not list(tmp_path.iterdir())
