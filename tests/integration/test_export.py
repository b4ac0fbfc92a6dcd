"""Exported models predict what the originals predict: by stock nnU-Net alone where their network is stock.

All models are trained once, for a few updates, in this process. All that runs without the plugin runs in one
process of an environment that does not have it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shlex
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_ssl.cli import main
from nnunet_ssl.data.dataset_json import read_dataset_json
from nnunet_ssl.inference.export import Source, load_checkpoint, prediction_network
from nnunet_ssl.tasks import TaskTable
from tests.integration.conftest import Workspace
from tests.integration.environments import Environment
from tests.integration.test_trainers import losses

pytestmark = pytest.mark.integration

BOTH, REGIONS = "Dataset903_Both", "Dataset905_Regions"
FINAL = "checkpoint_final.pth"
ENTRY_POINTS = {
    "nnUNetv2_predict": "nnunetv2.inference.predict_from_raw_data:predict_entry_point",
    "nnUNetv2_predict_from_modelfolder": (
        "nnunetv2.inference.predict_from_raw_data:predict_entry_point_modelfolder"
    ),
    "nnUNetv2_install_pretrained_model_from_zip": (
        "nnunetv2.model_sharing.entry_points:install_from_zip_entry_point"
    ),
}
FAST = ("-device", "cpu", "--disable_tta", "--disable_progress_bar")
HERE, WORKERS = ("-npp", "0", "-nps", "0"), ("-npp", "1", "-nps", "1")

# Runs commands of nnU-Net, given as JSON. A file, because worker processes import it again.
COMMANDS = """
import importlib, importlib.util, json, sys
if __name__ == "__main__":
    assert importlib.util.find_spec("nnunet_ssl") is None
    for entry, *arguments in json.loads(sys.argv[1]):
        module, function = entry.split(":")
        sys.argv = [function, *arguments]
        getattr(importlib.import_module(module), function)()
    assert "nnunet_ssl" not in sys.modules
"""


@dataclass(frozen=True)
class Exported:
    """What was exported from a model, how to use it as the command printed it, and predictions of both."""

    file: Path
    printed: str
    before: Path
    after: Path

    def commands(self, images: Path, *options: str) -> list[list[str]]:
        """Entry point and arguments of the printed commands."""
        lines = [line.split() for line in self.printed.splitlines() if line.startswith("  nnUNetv2_")]
        known = {"IN": str(images), "OUT": str(self.after)}
        typed = [[ENTRY_POINTS[name], *(known.get(word, word) for word in rest)] for name, *rest in lines]
        typed[-1] += [*FAST, *options]  # the last one predicts
        return typed


@pytest.fixture(scope="module", autouse=True)
def folders(workspace: Workspace) -> Iterator[None]:
    """nnU-Net's folders, for all that runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in workspace.env.items():
            patch.setenv(key, value)
        yield


@pytest.fixture(scope="module")
def trained(workspace: Workspace) -> Callable[[str, str], Path]:
    """Model folder of a trainer after a few updates; each is made once."""
    made: dict[tuple[str, str], Path] = {}

    def train(dataset: str, name: str) -> Path:
        if (dataset, name) not in made:
            folds = (0, "all") if name == "nnUNetTrainerMeanTeacher" else (0,)
            made[dataset, name] = [train_fold(workspace, dataset, name, fold) for fold in folds][-1]
        return made[dataset, name]

    return train


def train_fold(workspace: Workspace, dataset: str, name: str, fold: Any) -> Path:
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(dataset, "3d_fullres", fold, name, "small", device=torch.device("cpu"))
    losses(trainer, 2)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / FINAL))
    trainer.dataloader_train.close()
    model = Path(trainer.output_folder_base)
    let_all_labels_occur(model, str(fold), next((workspace.root / "raw" / dataset / "imagesTs").iterdir()))
    return model


def let_all_labels_occur(model: Path, fold: str, scan: Path) -> None:
    """A few updates leave background everywhere: give each output the mean 0 on a scan."""
    source = Source(model, (fold,), FINAL)
    table = TaskTable.from_dataset_json(read_dataset_json(model))
    network = prediction_network(source, table).eval()
    voxels = torch.from_numpy(sitk.GetArrayFromImage(sitk.ReadImage(str(scan))))[None, None].float()
    with torch.no_grad():
        means = network((voxels - voxels.mean()) / voxels.std())[0].flatten(1).mean(1)
    checkpoint = load_checkpoint(source, fold)
    weights = checkpoint["network_weights"]
    if (
        "head.seg_layers.psi.weight" in weights
    ):  # one-hot prompts: a column for each; the last row is an offset
        prompts = weights["head.seg_layers.prompts"].shape[1]
        offsets = weights["head.seg_layers.psi.weight"][-1, -prompts:]
        offsets[: len(table.prompts)] -= means[1:]
    else:
        weights[max(k for k in weights if k.startswith("decoder.seg_layers.") and k.endswith("bias"))] -= (
            means
        )
    torch.save(checkpoint, model / f"fold_{fold}" / FINAL)


def export(*arguments: object) -> str:
    """What ``nnUNetv2_ssl export`` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["export", *map(str, arguments)]) == 0
    return printed.getvalue()


def run_here(entry: str, *arguments: object) -> None:
    """A command of nnU-Net in this process."""
    module, function = entry.split(":")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [function, *map(str, arguments)])
        try:
            getattr(importlib.import_module(module), function)()
        finally:
            torch.set_num_threads(1)


def predict(workspace: Workspace, model: Path, output: Path, folds: str = "0", task: str = "") -> Path:
    """Stock prediction with the original, the plugin at hand."""
    trainer, plans, configuration = model.name.split("__")
    dataset = model.parent.name
    images = workspace.root / "raw" / dataset / "imagesTs"
    command = ("-i", images, "-o", output, "-d", dataset, "-c", configuration, "-p", plans, "-tr", trainer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_ssl_task", task)
        run_here(ENTRY_POINTS["nnUNetv2_predict"], *command, "-f", *folds.split(), *FAST, *HERE)
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
    assert set(np.unique(np.concatenate([a.ravel() for a in two.values()]))) == {0, *numbers.values()}


STOCK = {  # trainer -> dataset, folds, task in the export, task at prediction
    "nnUNetTrainerMeanTeacher": (BOTH, "0 all", None, ""),
    "nnUNetTrainerPICK": (BOTH, "0", "two", "Two"),
    "nnUNetTrainerDBiSL": (BOTH, "0", "two", "Two"),
    "nnUNetTrainerSSLSupervised": (REGIONS, "0", "core", "core"),
}


@pytest.fixture(scope="module")
def elsewhere(
    workspace: Workspace, trained: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Exported]:
    """Models with nnU-Net's own network: exported, and used as printed where there is no plugin."""
    place = tmp_path_factory.mktemp("elsewhere")
    results, raw = place / "results", workspace.root / "raw"
    results.mkdir()
    made, commands = {}, []
    for trainer, (dataset, folds, task, asked) in STOCK.items():
        model = trained(dataset, trainer)
        file = place / (f"{trainer}.zip" if task else trainer)
        printed = export("-m", model, "-f", *folds.split(), *(("--task", task) if task else ()), "-o", file)
        before = predict(workspace, model, place / f"{trainer}_before", folds, asked)
        made[trainer] = Exported(file, printed, before, place / f"{trainer}_after")
        # a folder is predicted from with worker processes; nnU-Net offers it no other way
        commands += made[trainer].commands(raw / dataset / "imagesTs", *(HERE if task else WORKERS))
    script = place / "commands.py"
    script.write_text(COMMANDS)
    environment = Environment(place)
    environment.call(script, json.dumps(commands), nnUNet_results=str(results), OMP_NUM_THREADS="1")
    return made


def test_all_labels_of_an_ensemble_without_plugin(elsewhere: dict[str, Exported]) -> None:
    made = elsewhere["nnUNetTrainerMeanTeacher"]
    assert_same(made.before, made.after, {1: 1, 2: 2, 3: 3})


@pytest.mark.parametrize("trainer", ["nnUNetTrainerPICK", "nnUNetTrainerDBiSL"])
def test_one_task_without_plugin(elsewhere: dict[str, Exported], trainer: str) -> None:
    made = elsewhere[trainer]
    assert_same(made.before, made.after, {2: 1, 3: 2})


def test_one_region_without_plugin(elsewhere: dict[str, Exported]) -> None:
    made = elsewhere["nnUNetTrainerSSLSupervised"]
    assert_same(made.before, made.after, {2: 1})


def test_what_a_folder_holds(elsewhere: dict[str, Exported], trained: Callable[[str, str], Path]) -> None:
    made, original = elsewhere["nnUNetTrainerMeanTeacher"], trained(BOTH, "nnUNetTrainerMeanTeacher")
    assert f"-m {made.file} -f 0 all" in made.printed and "needs nnunet-ssl" not in made.printed
    files = {str(p.relative_to(made.file)) for p in made.file.rglob("*") if p.is_file()}
    checkpoints = {f"fold_0/{FINAL}", f"fold_all/{FINAL}"}
    assert {"plans.json", "dataset.json", "dataset_fingerprint.json", *checkpoints} <= files
    for file in checkpoints:
        checkpoint = torch.load(made.file / file, weights_only=False)
        assert checkpoint["trainer_name"] == "nnUNetTrainer"
        assert not [k for k in checkpoint["network_weights"] if "training_only" in k]
        assert not {"optimizer_state", "ssl_state", "logging"} & set(checkpoint)
        assert checkpoint["init_args"]["plans"] == json.loads((made.file / "plans.json").read_text())
        assert (made.file / file).stat().st_size < (original / file).stat().st_size / 2


def test_what_a_zip_holds(elsewhere: dict[str, Exported]) -> None:
    made = elsewhere["nnUNetTrainerPICK"]
    place = "Dataset903_Both/nnUNetTrainer__small_PICK_two__3d_fullres"
    with zipfile.ZipFile(made.file) as content:
        assert f"{place}/plans.json" in content.namelist()
        assert all(name.startswith(place) for name in content.namelist())
        described = json.loads(content.read(f"{place}/dataset.json"))
    assert described["labels"] == {"background": 0, "left": 1, "right": 2}
    assert not list(made.file.parent.glob(f".{made.file.name}*"))


@pytest.mark.parametrize(("task", "numbers"), [(None, {1: 1, 2: 2, 3: 3}), ("Two", {2: 2, 3: 3})])
def test_a_prompted_model_keeps_its_trainer(
    workspace: Workspace,
    trained: Callable[[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str | None,
    numbers: dict[int, int],
) -> None:
    """For one task the installed model needs no ``nnUNet_ssl_task`` any more."""
    model, images = trained(BOTH, "nnUNetTrainerVerSemi"), workspace.root / "raw" / BOTH / "imagesTs"
    file = tmp_path / "model.zip"
    printed = export("-m", model, *(("--task", task) if task else ()), "-o", file)
    assert "needs nnunet-ssl" in printed
    made = Exported(file, printed, tmp_path / "before", tmp_path / "after")
    predict(workspace, model, made.before, task=task or "")
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    for entry, *arguments in made.commands(images, *HERE):
        run_here(entry, *arguments)
    assert_same(made.before, made.after, numbers)


def test_another_decoder_without_a_new_training(trained: Callable[[str, str], Path], tmp_path: Path) -> None:
    """The mean of DBiSL's decoders, of a model that was trained to predict with the first; and back."""
    model, both, first = trained(BOTH, "nnUNetTrainerDBiSL"), tmp_path / "both", tmp_path / "first"
    assert "needs nnunet-ssl" in export("-m", model, "--set", "inference_branches=mean", "-o", both)
    assert "needs nnunet-ssl" not in export("-m", both, "--set", "inference_branches=first", "-o", first)
    table = TaskTable.from_dataset_json(read_dataset_json(model))
    one, two, back = (prediction_network(Source(m, ("0",), FINAL), table) for m in (model, both, first))
    image = torch.randn(1, 1, 16, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone, mean, again = (network.eval()(image).softmax(1) for network in (one, two, back))
    assert torch.equal(again, alone) and not torch.allclose(mean, alone, atol=1e-3)
    weights = load_checkpoint(Source(model, ("0",), FINAL), "0")["network_weights"]
    kept = two.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in kept.items())
    assert {n for n in weights if "seg_layers.second." in n} < kept.keys()
    assert len(kept) < len(weights)  # the regression heads are left out
    assert not (both / "fold_0" / "validation").exists()  # scores of the other decoder


def test_another_decoder_whose_weights_are_gone(
    trained: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original, model = trained(BOTH, "nnUNetTrainerDBiSL"), tmp_path / "one"
    checkpoint = load_checkpoint(Source(original, ("0",), FINAL), "0")
    weights = checkpoint["network_weights"].items()
    checkpoint["network_weights"] = {n: w for n, w in weights if "seg_layers.second." not in n}
    (model / "fold_0").mkdir(parents=True)
    torch.save(checkpoint, model / "fold_0" / FINAL)
    for name in ("plans.json", "dataset.json"):
        (model / name).write_bytes((original / name).read_bytes())
    arguments = ["-m", str(model), "--set", "inference_branches=mean", "-o", str(tmp_path / "two")]
    assert main(["export", *arguments]) == 2
    assert f"inference_branches=mean: {model} lacks weights" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_wish_in_the_environment_does_not_enter(
    trained: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_ssl_task", "One")
    export("-m", trained(BOTH, "nnUNetTrainerPICK"), "-o", tmp_path / "model")
    assert os.environ["nnUNet_ssl_task"] == "One"
    checkpoint = torch.load(tmp_path / "model" / "fold_0" / FINAL, weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"


def test_named_by_dataset_and_trainer(trained: Callable[[str, str], Path], tmp_path: Path) -> None:
    trained(BOTH, "nnUNetTrainerPICK")
    name = shlex.split("-d 903 -c 3d_fullres -p small -tr nnUNetTrainerPICK")
    assert f"Wrote {tmp_path / 'model'}" in export(*name, "-o", tmp_path / "model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "liver"), "Known tasks: One (labels: box); Two (labels: left, right)"),
        (("-f", "4"), "fold(s) 4"),
        (("-chk", "checkpoint_best.pth"), "checkpoint_best.pth"),
    ],
)
def test_errors(
    trained: Callable[[str, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    model = trained(BOTH, "nnUNetTrainerPICK")
    assert main(["export", "-m", str(model), *arguments, "-o", str(tmp_path / "model")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
