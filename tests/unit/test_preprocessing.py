"""Preprocessing of imagesUn: trainings that start at once, missing folders, and what lies outside."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg
from PIL import Image

from nnunet_ssl import locks
from nnunet_ssl.data import preprocessing
from nnunet_ssl.data.preprocessing import Recipe, array_file, prepared_cases, preprocess_unlabeled
from nnunet_ssl.data.two_stream import NonzeroMask
from nnunet_ssl.errors import DataError
from nnunet_ssl.training.cases import Folders, bring_up_to_date

CASES = [f"c{i}" for i in range(8)]
RESAMPLE = {"order": 3, "order_z": 0, "force_separate_z": None}
PICTURES = {
    "image_reader_writer": "NaturalImage2DIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
        "2d": {
            "preprocessor_name": "DefaultPreprocessor",
            "patch_size": [24, 32],
            "spacing": [1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"] * 3,
            "use_mask_for_norm": [False] * 3,
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": {"is_seg": False, **RESAMPLE},
            "resampling_fn_seg_kwargs": {"is_seg": True, **RESAMPLE},
            "architecture": {},
        }
    },
    "foreground_intensity_properties_per_channel": {"0": {}, "1": {}, "2": {}},
}
write_manifest = preprocessing._write_manifest


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


def bring(recipe):
    images = recipe.folder.parent / "raw" / "imagesUn"
    return preprocess_unlabeled(recipe, images if images.is_dir() else None, 1)


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
    folders = Folders(recipe.folder.parent, recipe.folder.parent / "plans", raw)
    recipe.folder.rename(folders.unlabeled)
    bring_up_to_date(folders, dataclasses.replace(recipe, folder=folders.unlabeled), 1, said.append)
    assert prepared_cases(folders.unlabeled) == CASES
    assert said == [f"No imagesUn here: 8 prepared scan(s) in {folders.unlabeled} are used."]


def test_scans_that_are_gone_are_forgotten(recipe):
    bring(recipe)
    (recipe.folder.parent / "raw" / "imagesUn" / "c3_0000.nii.gz").unlink()
    assert bring(recipe) == [case for case in CASES if case != "c3"]
    assert not array_file(recipe.folder, "c3").exists()


def test_what_was_prepared_with_other_plans_is_refused_where_it_cannot_be_done_anew(recipe):
    bring(recipe)
    raw = recipe.folder.parent / "raw"
    (raw / "imagesUn").rename(raw / "elsewhere")
    other = {"configurations": {"3d_fullres": {"spacing": [2, 2, 2], "architecture": {}}}}
    with pytest.raises(DataError, match="The 8 unlabelled .* were preprocessed with other plans, and there"):
        bring(dataclasses.replace(recipe, plans=other))


def test_a_link_whose_scan_is_gone_is_told_and_the_others_are_done(recipe, monkeypatch):
    folder = recipe.folder.parent / "raw" / "imagesUn"
    (folder / "c3_0000.nii.gz").unlink()
    (folder / "c3_0000.nii.gz").symlink_to(folder / "nowhere")
    prepare = preprocessing._prepare

    def read(recipe, case, files):
        files[0].read_bytes()
        prepare(recipe, case, files)

    monkeypatch.setattr(preprocessing, "_prepare", read)
    with pytest.raises(DataError, match=r"1 of 8 unlabelled scan.*\n  c3: unreadable \(FileNotFoundError"):
        bring(recipe)
    assert prepared_cases(recipe.folder) == [case for case in CASES if case != "c3"]


def test_an_interruption_loses_nothing_that_is_done(recipe, monkeypatch):
    prepare, written = preprocessing._prepare, []
    monkeypatch.setattr(
        preprocessing, "_write_manifest", lambda *what: written.append(1) or write_manifest(*what)
    )

    def stop(recipe, case, files):
        if case == "c5":
            raise KeyboardInterrupt
        prepare(recipe, case, files)

    monkeypatch.setattr(preprocessing, "_prepare", stop)
    with pytest.raises(KeyboardInterrupt):
        bring(recipe)
    assert prepared_cases(recipe.folder) == CASES[:5] and len(written) == 1  # not with every scan


@pytest.mark.parametrize("names", ["channel_names", "modality"])
def test_one_picture_holds_three_channels(tmp_path, names):
    scans = tmp_path / "imagesUn"
    scans.mkdir()
    colours = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(colours).save(scans / "a_0000.png")
    about = {names: {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png", "labels": {"background": 0}}
    recipe = Recipe(PICTURES, "2d", about, tmp_path / "prepared")
    assert preprocess_unlabeled(recipe, scans, 1) == ["a"]
    array = np.asarray(blosc2.open(str(array_file(recipe.folder, "a")))[:])
    assert array.shape == (3, 1, 24, 32)
    centred = colours - colours.mean((0, 1))
    assert np.allclose(array[:, 0], (centred / colours.std((0, 1))).transpose(2, 0, 1), atol=1e-4)
    Image.fromarray(colours[..., 0]).save(scans / "b_0000.png")
    with pytest.raises(DataError, match=r"b: expected 3 channel\(s\) \(R, G, B\), found .* \(1, 1, 24, 32\)"):
        preprocess_unlabeled(recipe, scans, 1)


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
