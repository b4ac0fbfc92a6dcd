"""Training through the stock commands, as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.integration.conftest import Workspace

pytestmark = pytest.mark.integration

ONE, BOTH = "Dataset901_One", "Dataset903_Both"
VERSEMI, SUPERVISED = "nnUNetTrainerVerSemi", "nnUNetTrainerSSLSupervised"


def history(checkpoint: Path) -> dict[str, list[float]]:
    """Loss curves of a checkpoint, our terms included."""
    logging = torch.load(checkpoint, weights_only=False)["logging"]
    return {k: v for k, v in logging.items() if k.startswith("ssl") or k in ("train_losses", "val_losses")}


def assert_resumed_equals_whole(work: Workspace, trainer: str, killed: str, whole: str) -> None:
    """Train on 901 twice, once killed in the middle and continued: the curves are the same."""
    train = ("901", "3d_fullres", "0", "-tr", trainer, "-device", "cpu")
    folder = work.fold(ONE, trainer, killed)
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "nnUNetv2_train"), *train, "-p", killed],
        env={**os.environ, **work.env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (folder / "checkpoint_latest.pth").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "checkpoint_final.pth").is_file(), "finished before it was killed"
    work.run("nnUNetv2_train", *train, "-p", killed, "--c")
    work.run("nnUNetv2_train", *train, "-p", whole)
    resumed = history(folder / "checkpoint_final.pth")
    uninterrupted = history(work.fold(ONE, trainer, whole) / "checkpoint_final.pth")
    assert resumed.keys() == uninterrupted.keys()
    for key, values in uninterrupted.items():
        np.testing.assert_allclose(resumed[key], values, rtol=1e-3, err_msg=key)  # last bits grow


@pytest.fixture(scope="module")
def trained(workspace: Any) -> Any:
    """VerSemi on the single dataset, two epochs, validated."""
    workspace.train(901, "3d_fullres", 0, "-p", "small", "-tr", VERSEMI, "--npz")
    return workspace.fold(ONE, VERSEMI, "small")


def test_writes_what_nnunet_writes_and_curves(trained: Path) -> None:
    for name in ("checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "progress_ssl.png"):
        assert (trained / name).is_file(), name
    log = "".join(file.read_text() for file in trained.glob("training_log_*.txt"))
    for term in ("labeled", "synthetic", "auxiliary", "unlabeled"):
        assert f"'{term}'" in log
        values = history(trained / "checkpoint_final.pth")[f"ssl/{term}"]
        assert len(values) == 2
        assert np.isfinite(values).all()
    config = json.loads((trained / "ssl_config.json").read_text())
    assert config["options"]["num_epochs"] == 2
    assert config["options"]["mask"] == "box"
    summary = json.loads((trained / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2
    assert len(list((trained / "validation").glob("*.npz"))) == 2
    assert not list(trained.glob("*.tmp"))


def test_unlabelled_scans_were_preprocessed_at_start(trained: Path, workspace: Any) -> None:
    folder = workspace.preprocessed(ONE) / "nnUNetPlans_3d_fullres_unlabeled"
    assert sorted(p.name for p in folder.glob("*.b2nd")) == ["u0.b2nd", "u1.b2nd", "u2.b2nd"]


def test_predict_val_and_val_best(trained: Path, workspace: Any, tmp_path: Path) -> None:
    images = workspace.root / "raw" / ONE / "imagesTs"
    predict = (
        "nnUNetv2_predict",
        "-i",
        images,
        "-d",
        901,
        "-f",
        0,
        "-c",
        "3d_fullres",
        "-p",
        "small",
        "-tr",
        VERSEMI,
    )
    workspace.run(*predict, "-o", tmp_path, "-device", "cpu", "-npp", 1, "-nps", 1)
    assert sorted(p.name for p in tmp_path.glob("*.nii.gz")) == ["t0.nii.gz", "t1.nii.gz"]
    reference = workspace.root / "raw" / ONE / "labelsTs"
    table = workspace.run(
        "nnUNetv2_ssl", "evaluate", "-ref", reference, "-pred", tmp_path, "-d", 901, "-np", 1
    ).stdout
    assert "box" in table
    for flags in (("--val",), ("--val", "--val_best")):
        shutil.rmtree(trained / "validation")
        workspace.train(901, "3d_fullres", 0, "-p", "small", "-tr", VERSEMI, *flags)
        assert (trained / "validation" / "summary.json").is_file()


def test_resumed_equals_uninterrupted(workspace: Workspace) -> None:
    for name in ("whole", "killed"):
        workspace.configure(901, name, "patch_size=16,24,24", "num_epochs=4")
    assert_resumed_equals_whole(workspace, VERSEMI, "killed", "whole")


def test_continuing_with_other_options_is_refused(trained: Path, workspace: Any) -> None:
    plans = workspace.preprocessed(ONE) / "small.json"
    before = plans.read_text()
    changed = json.loads(before)
    changed["nnunet_ssl"]["options"]["mask"] = "slice"
    plans.write_text(json.dumps(changed))
    try:
        finished = workspace.train(901, "3d_fullres", 0, "-p", "small", "-tr", VERSEMI, "--c", check=False)
    finally:
        plans.write_text(before)
    assert finished.returncode != 0
    assert "mask: box -> slice" in finished.stderr


def test_several_datasets(workspace: Any, tmp_path: Path) -> None:
    workspace.train(903, "3d_fullres", 0, "-p", "small", "-tr", VERSEMI)
    fold = workspace.fold(BOTH, VERSEMI, "small")
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    labels = {"One_": {"1"}, "Two_": {"2", "3"}}
    for case in summary["metric_per_case"]:
        name = Path(case["reference_file"]).name
        assert set(case["metrics"]) == labels[name[:4]]
        assert Path(case["prediction_file"]).is_file()
        found = set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(case["prediction_file"])))) - {0}
        assert {str(v) for v in found} <= labels[name[:4]]
    assert set(summary["mean"]) == {"1", "2", "3"}
    assert not (fold / "validation_by_task").exists()

    images = workspace.root / "raw" / BOTH / "imagesTs"
    predict = (
        "nnUNetv2_predict",
        "-i",
        images,
        "-d",
        903,
        "-f",
        0,
        "-c",
        "3d_fullres",
        "-p",
        "small",
        "-tr",
        VERSEMI,
    )
    predict += ("-device", "cpu", "-npp", 1, "-nps", 1, "--disable_tta")
    workspace.run(*predict, "-o", tmp_path / "two", nnUNet_ssl_task="two")
    workspace.run(*predict, "-o", tmp_path / "right", nnUNet_ssl_task="right")
    for folder, allowed in (("two", {0, 2, 3}), ("right", {0, 3})):
        files = list((tmp_path / folder).glob("*.nii.gz"))
        assert len(files) == 4
        for file in files:
            assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))) <= allowed
    unknown = workspace.run(*predict, "-o", tmp_path / "x", check=False, nnUNet_ssl_task="liver")
    assert unknown.returncode != 0
    assert "Known tasks: One (labels: box); Two (labels: left, right)" in unknown.stderr


def test_pretrained_weights_of_stock_nnunet(workspace: Any) -> None:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    plans = json.loads((workspace.preprocessed(ONE) / "small.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        2,
    )
    weights = workspace.root / "stock.pth"
    torch.save({"network_weights": network.state_dict()}, weights)
    workspace.configure(901, "pretrained", "patch_size=16,24,24", "num_epochs=1")
    finished = workspace.train(
        901, "3d_fullres", 0, "-p", "pretrained", "-tr", VERSEMI, "-pretrained_weights", weights
    )
    assert "Loading pretrained weights" in finished.stdout


def test_two_dimensions_with_workers_and_all_cases(workspace: Any) -> None:
    workspace.train(904, "2d", "all", "-p", "small", "-tr", "nnUNetTrainerUniSeMi", nnUNet_n_proc_DA="1")
    fold = workspace.fold("Dataset904_Flat", "nnUNetTrainerUniSeMi", "small", "2d", "all")
    curves = history(fold / "checkpoint_final.pth")
    assert "ssl/auxiliary" not in curves
    assert np.isfinite(curves["ssl/unlabeled"]).all()
    assert (fold / "validation" / "summary.json").is_file()
