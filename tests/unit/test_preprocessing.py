"""Preprocessing of imagesUn: trainings that start at once, missing folders, and what lies outside."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg

from nnunet_ssl import locks
from nnunet_ssl.data import preprocessing
from nnunet_ssl.data.preprocessing import Recipe, array_file, prepared_cases, preprocess_unlabeled
from nnunet_ssl.data.two_stream import NonzeroMask
from nnunet_ssl.training.cases import Folders, bring_up_to_date

CASES = [f"c{i}" for i in range(8)]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A raw dataset with imagesUn; preprocessing a scan takes a while and is noted."""
    (tmp_path / "raw" / "imagesUn").mkdir(parents=True)
    for case in CASES:
        (tmp_path / "raw" / "imagesUn" / f"{case}_0000.nii.gz").write_bytes(b"scan")
    made = []

    def prepare(recipe, case, files):
        made.append(case)
        time.sleep(0.01)
        array_file(recipe.folder, case).write_bytes(b"array")

    monkeypatch.setattr(preprocessing, "_prepare", prepare)
    plans = {"configurations": {"3d_fullres": {"spacing": [1, 1, 1], "architecture": {}}}}
    found = Recipe(plans, "3d_fullres", {"file_ending": ".nii.gz"}, tmp_path / "prepared")
    object.__setattr__(found, "made", made)
    return found


def bring(recipe, progress=False):
    return preprocess_unlabeled(recipe, recipe.folder.parent / "raw" / "imagesUn", 1, progress)


def test_trainings_that_start_together_take_turns(recipe):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: bring(recipe), range(3)))
    assert found == [CASES] * 3 and prepared_cases(recipe.folder) == CASES
    assert sorted(recipe.made) == CASES  # each once, and none removed by another


def test_without_locks_it_goes_on(recipe, monkeypatch):
    def refuse(file):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks, "_lock", refuse)
    assert bring(recipe) == CASES


def test_what_was_prepared_elsewhere_stays(recipe):
    bring(recipe)
    raw = recipe.folder.parent / "raw"
    (raw / "imagesUn").rename(raw / "elsewhere")
    assert bring(recipe) == CASES and prepared_cases(recipe.folder) == CASES
    said = []
    # the preprocessed folder of a configuration is named after it
    recipe.folder.rename(recipe.folder.parent / "plans_unlabeled")
    folders = Folders(recipe.folder.parent, recipe.folder.parent / "plans", raw)
    bring_up_to_date(folders, recipe, 1, said.append)
    assert prepared_cases(folders.unlabeled) == CASES
    assert said == [f"No imagesUn here: 8 prepared scan(s) in {folders.unlabeled} are used."]


def test_scans_that_are_gone_are_forgotten(recipe):
    bring(recipe)
    (recipe.folder.parent / "raw" / "imagesUn" / "c3_0000.nii.gz").unlink()
    assert bring(recipe) == [case for case in CASES if case != "c3"]
    assert not array_file(recipe.folder, "c3").exists()


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_outside_is_found_after_resampling(factor):
    # as nnU-Net does it: normalised inside, 0 outside, then resampled with splines, which ring
    image = np.zeros((1, 40, 40, 40), np.float32)
    image[:, 10:30, 10:30, 10:30] = np.random.default_rng(0).normal(size=(1, 20, 20, 20))
    size = round(40 * factor)
    resampled = resample_data_or_seg(image, (size,) * 3, order=3)
    seg = torch.zeros(1, size, size, size)
    marked = NonzeroMask().apply({"image": torch.from_numpy(resampled), "segmentation": seg})["segmentation"]
    inside = torch.zeros(1, size, size, size, dtype=torch.bool)
    inside[(slice(None), *[slice(round(9 * factor), round(31 * factor))] * 3)] = True
    assert (marked[~inside] == -1).float().mean() > 0.8
    assert (marked[inside] == -1).float().mean() < 0.35  # the rim, and hardly a voxel within
    core = (slice(None), *[slice(round(13 * factor), round(27 * factor))] * 3)
    assert (marked[core] == -1).float().mean() < 0.01
