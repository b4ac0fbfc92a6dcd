"""Tiny datasets for nnU-Net's own commands.

Made once per run: 901 (one label), 902 (two labels, anisotropic), 903 (both merged), 904 (2D), 905 (regions
and an ignore label). Objects are bright boxes on noise, so that a few updates move the loss.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

SMALL = {
    "num_epochs": "2",
    "num_iterations_per_epoch": "2",
    "num_val_iterations_per_epoch": "1",
    "seed": "0",
    "save_every": "1",
    "features_per_stage": "4,8,8",
    "batch_size": "2",
}


# nnU-Net's own plan_and_preprocess, with workers that are forked: spawned ones import torch for seconds, for
# data that takes milliseconds. The command as users type it runs in test_demo.py.
PLAN = """
import multiprocessing, os
if hasattr(os, "fork"):
    context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: context("fork")
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry
plan_and_preprocess_entry()
"""


@dataclass(frozen=True)
class Workspace:
    """nnU-Net's three folders and a way to run commands in them."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        folders = {f"nnUNet_{name}": str(self.root / name) for name in ("raw", "preprocessed", "results")}
        return {**folders, "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}

    def run(self, *command: object, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user types it; scripts of the running environment."""
        name, *rest = map(str, command)
        script = Path(sys.executable).parent / name
        finished = subprocess.run(
            [str(script), *rest],
            env={**os.environ, **self.env, **env},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if check and finished.returncode != 0:
            typed = " ".join(map(str, command))
            raise AssertionError(f"{typed}\n{finished.stdout[-3000:]}\n{finished.stderr[-3000:]}")
        return finished

    def plan(self, *datasets: int, configuration: str = "3d_fullres") -> None:
        # nnU-Net's planner cannot do without workers
        one = ("-np", 1, "-npfp", 1)
        self.run("python", "-c", PLAN, "-d", *datasets, "-c", configuration, *one, nnUNet_n_proc_DA="1")

    def train(self, *arguments: object, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("nnUNetv2_train", *arguments, "-device", "cpu", check=check, **env)

    def configure(self, dataset: int, name: str, *options: str, configuration: str = "3d_fullres") -> None:
        values = SMALL | dict(option.split("=", 1) for option in options)
        settings = [f"{key}={value}" for key, value in values.items()]
        self.run(
            "nnUNetv2_ssl", "configure", "-d", dataset, "-c", configuration, "-o", name, "--set", *settings
        )

    def preprocessed(self, dataset: str) -> Path:
        return self.root / "preprocessed" / dataset

    def fold(
        self, dataset: str, trainer: str, plans: str, configuration: str = "3d_fullres", fold: str = "0"
    ) -> Path:
        return self.root / "results" / dataset / f"{trainer}__{plans}__{configuration}" / f"fold_{fold}"


def write_scan(file: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
    """Write an array (z, y, x) or, as PNG, (y, x)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    if array.ndim == 3:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


def boxes(shape: tuple[int, ...], labels: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label map: one bright box per label, side by side along the last axis."""
    label = np.zeros(shape, dtype=np.uint8)
    for value in range(1, labels + 1):
        where = [
            slice(s // 4 + int(o), 3 * s // 4 + int(o))
            for s, o in zip(shape, rng.integers(-2, 3, len(shape)), strict=True)
        ]
        width = shape[-1] // (labels + 1)
        where[-1] = slice((value - 1) * width + 2, value * width)
        label[tuple(where)] = value
    image = rng.normal(0, 0.3, shape).astype(np.float32) + label
    return image, label


def make_dataset(
    raw: Path,
    name: str,
    shape: tuple[int, ...],
    labels: dict[str, Any],
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    ending: str = ".nii.gz",
    extra: dict[str, Any] | None = None,
) -> None:
    """Six labelled cases, three bare scans, two test scans."""
    rng, folder = np.random.default_rng(0), raw / name
    values = max(v if isinstance(v, int) else max(v) for v in labels.values())
    parts = [("imagesTr", "labelsTr", "c", 6), ("imagesUn", None, "u", 3), ("imagesTs", "labelsTs", "t", 2)]
    for images, label_folder, letter, count in parts:
        for i in range(count):
            image, label = boxes(shape, values, rng)
            if ending == ".png":
                image = np.clip(100 + 40 * image, 0, 255).astype(np.uint8)
            write_scan(folder / images / f"{letter}{i}_0000{ending}", image, spacing)
            if label_folder:
                write_scan(folder / label_folder / f"{letter}{i}{ending}", label, spacing)
    dataset_json = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 6, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(dataset_json | (extra or {})))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """All datasets planned and preprocessed by the stock command."""
    work = Workspace(tmp_path_factory.mktemp("nnunet"))
    for name in ("raw", "preprocessed", "results"):
        (work.root / name).mkdir()
    raw = work.root / "raw"
    make_dataset(raw, "Dataset901_One", (16, 24, 24), {"background": 0, "box": 1})
    make_dataset(
        raw, "Dataset902_Two", (8, 32, 32), {"background": 0, "left": 1, "right": 2}, (1.0, 1.0, 4.0)
    )
    make_dataset(raw, "Dataset904_Flat", (32, 32), {"background": 0, "box": 1}, ending=".png")
    regions = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    make_dataset(raw, "Dataset905_Regions", (16, 24, 24), regions, extra={"regions_class_order": [1, 2]})
    work.run("nnUNetv2_ssl", "merge", "-d", 901, 902, "-o", 903, "-n", "Both")
    work.plan(901, 902, 903, 905)
    work.plan(904, configuration="2d")
    for dataset, labeled in ((901, 2), (902, 2), (903, 2), (904, 2), (905, 2)):
        work.run("nnUNetv2_ssl", "split", "-d", dataset, "--labeled", labeled, "--val", "0.34")
    work.configure(901, "small", "patch_size=16,24,24")
    work.configure(902, "small", "patch_size=8,32,32")
    work.configure(903, "small", "patch_size=16,24,24")
    work.configure(904, "small", "patch_size=32,32", configuration="2d")
    work.configure(905, "small", "patch_size=16,24,24")
    return work


@pytest.fixture
def here(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """The workspace for trainers in this process: its folders are nnU-Net's."""
    for key, value in workspace.env.items():
        monkeypatch.setenv(key, value)
    yield workspace


@pytest.fixture
def make_trainer(here: Workspace) -> Callable[..., Any]:
    """Build a trainer in this process as ``nnUNetv2_train`` does, on the CPU."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    def make(
        dataset: str, trainer: str, plans: str = "small", configuration: str = "3d_fullres", fold: Any = 0
    ) -> Any:
        return get_trainer_from_args(dataset, configuration, fold, trainer, plans, device=torch.device("cpu"))

    return make
