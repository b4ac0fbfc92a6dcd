"""The phantom: the same seed makes the same scans, and both tasks are there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.demo.phantom import (
    SHAPE,
    SPACING,
    TASKS,
    Counts,
    PhantomTask,
    case_rng,
    make_case,
    write_dataset,
)
from nnunet_ssl.tasks import TaskTable

COUNTS = Counts(labeled=2, unlabeled=3, test=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "Dataset990_Phantom"
    write_dataset(folder, COUNTS)
    return folder


def read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def names(folder: Path) -> set[str]:
    return {f.name.removesuffix(".nii.gz").removesuffix("_0000") for f in folder.iterdir()}


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_a_case_follows_from_its_seed(task: PhantomTask) -> None:
    image, mask = make_case(task, case_rng(0, task, "Tr", 1))
    again, mask_again = make_case(task, case_rng(0, task, "Tr", 1))
    assert np.array_equal(image, again) and np.array_equal(mask, mask_again)
    for other in (case_rng(1, task, "Tr", 1), case_rng(0, task, "Un", 1), case_rng(0, task, "Tr", 2)):
        assert not np.array_equal(image, make_case(task, other)[0])


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_every_case_holds_its_target(task: PhantomTask) -> None:
    for index in range(10):
        image, mask = make_case(task, case_rng(0, task, "Ts", index))
        assert image.shape == mask.shape == SHAPE
        assert image.dtype == np.float32 and np.isfinite(image).all() and image.std() > 0.1
        assert 100 < mask.sum() < 0.3 * mask.size
        contrast = image[mask].mean() - image[~mask].mean()
        assert np.sign(contrast) == np.sign(task.contrast[0])


def test_tasks_differ_in_label_and_contrast() -> None:
    assert len({t.value for t in TASKS}) == len({t.label for t in TASKS}) == len(TASKS) == 2
    assert TASKS[0].contrast[0] > 0 > TASKS[1].contrast[1]


def test_groups_are_complete_and_disjoint(dataset: Path) -> None:
    groups = {g: names(dataset / f"images{g}") for g in ("Tr", "Un", "Ts")}
    assert {g: len(cases) for g, cases in groups.items()} == {"Tr": 4, "Un": 6, "Ts": 2}
    assert (
        not groups["Tr"] & groups["Un"]
        and not groups["Tr"] & groups["Ts"]
        and not groups["Un"] & groups["Ts"]
    )
    assert names(dataset / "labelsTr") == groups["Tr"] and names(dataset / "labelsTs") == groups["Ts"]
    assert not (dataset / "labelsUn").exists()
    scans = [read(f) for g in groups for f in sorted((dataset / f"images{g}").iterdir())]
    assert len({scan.tobytes() for scan in scans}) == len(scans)


def test_labels_are_those_of_the_case_s_task(dataset: Path) -> None:
    dataset_json = json.loads((dataset / "dataset.json").read_text())
    table = TaskTable.from_dataset_json(dataset_json)
    for folder in ("labelsTr", "labelsTs"):
        for file in (dataset / folder).iterdir():
            task = TASKS[table.task_of(file.name)]
            assert set(np.unique(read(file))) == {0, task.value}
            assert dataset_json["labels"][task.label] == task.value


def test_what_nnunet_needs(dataset: Path) -> None:
    dataset_json = json.loads((dataset / "dataset.json").read_text())
    assert dataset_json["numTraining"] == len(names(dataset / "labelsTr"))
    assert dataset_json["channel_names"] and dataset_json["file_ending"] == ".nii.gz"
    image = sitk.ReadImage(str(next((dataset / "imagesUn").iterdir())))
    assert image.GetSpacing() == SPACING[::-1] and image.GetSize() == SHAPE[::-1]
    assert sum(f.stat().st_size for f in dataset.rglob("*.nii.gz")) < 150_000 * 12


def test_more_scans_leave_the_first_ones_as_they_are(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, Counts(labeled=1, unlabeled=0, test=0))
    for file in (tmp_path / "imagesTr").iterdir():
        assert np.array_equal(read(file), read(dataset / "imagesTr" / file.name))
