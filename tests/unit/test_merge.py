"""Merging: labels voxel by voxel, geometry, links, tasks, and datasets that do not go together."""

import json
import os
import shutil
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.commands import merge as command
from nnunet_ssl.conversion.merge import load_source, merge_channels, plan_merge
from nnunet_ssl.conversion.merge_files import place_file
from nnunet_ssl.errors import DataError, TaskError
from nnunet_ssl.tasks import TaskTable
from tests.real_data import RAW, needs_data

SPACING, ORIGIN = (1.5, 0.75, 3.0), (-12.5, 30.25, 7.0)
DIRECTION = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
HEART = {"background": 0, "atrium": 1, "ventricle": 2}
LIVER = {"background": 0, "tumour": 2, "liver": 1}


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """An empty nnUNet_raw."""
    folder = tmp_path / "raw"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_raw", str(folder))
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    return folder


def write(path, array, dtype):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array.astype(dtype))
    image.SetSpacing(SPACING[: array.ndim])
    image.SetOrigin(ORIGIN[: array.ndim])
    if array.ndim == 3:
        image.SetDirection(DIRECTION)
    sitk.WriteImage(image, str(path))


def make_dataset(
    raw, name, labels=None, cases=("a", "b"), channels=("MRI",), ending=".nii.gz", shape=(4, 6, 5), **more
):
    """A raw dataset of random images and labels."""
    labels = labels or {"background": 0, f"{name[-3:]}_1": 1}
    folder = raw / name
    folder.mkdir()
    rng = np.random.default_rng(sum(name.encode()))
    top = max(v if isinstance(v, int) else max(v) for v in labels.values())
    for case in cases:
        for channel in range(len(channels)):
            image = rng.integers(0, 99, shape)
            write(
                folder / "imagesTr" / f"{case}_{channel:04d}{ending}",
                image,
                np.int16 if ending != ".png" else np.uint8,
            )
        write(folder / "labelsTr" / f"{case}{ending}", rng.integers(0, top + 1, shape), np.uint8)
    dataset_json = {
        "channel_names": {str(i): c for i, c in enumerate(channels)},
        "labels": labels,
        "numTraining": len(cases),
        "file_ending": ending,
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    return folder


def run(*argv):
    parser = ArgumentParser(description=command.__doc__)
    command.add_arguments(parser)
    command.run(parser.parse_args(argv))


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def plan(*ids, prefix_labels=False):
    return plan_merge([load_source(i) for i in ids], "Dataset520_Both", prefix_labels)


def test_labels_are_renumbered_voxel_by_voxel(raw):
    heart = make_dataset(raw, "Dataset501_Heart", HEART)
    liver = make_dataset(raw, "Dataset502_Liver", LIVER)
    run("-d", "501", "Dataset502_Liver", "-o", "520", "-n", "Both")
    both = raw / "Dataset520_Both"
    dataset_json = json.loads((both / "dataset.json").read_text())
    assert dataset_json["labels"] == {"background": 0, "atrium": 1, "ventricle": 2, "liver": 3, "tumour": 4}
    assert list(dataset_json["labels"].values()) == [0, 1, 2, 3, 4]
    assert dataset_json["numTraining"] == 4
    for case in ("a", "b"):
        np.testing.assert_array_equal(
            read(both / "labelsTr" / f"Heart_{case}.nii.gz"), read(heart / "labelsTr" / f"{case}.nii.gz")
        )
        old = read(liver / "labelsTr" / f"{case}.nii.gz")
        new = read(both / "labelsTr" / f"Liver_{case}.nii.gz")
        np.testing.assert_array_equal(new, np.select([old == 1, old == 2], [3, 4]))
        assert set(np.unique(old)) == {0, 1, 2} and new.dtype == np.uint8
    assert sorted(p.name for p in raw.iterdir()) == [
        "Dataset501_Heart",
        "Dataset502_Liver",
        "Dataset520_Both",
    ]


def test_geometry_is_kept(raw):
    make_dataset(raw, "Dataset501_Heart", HEART)
    make_dataset(raw, "Dataset502_Liver", LIVER)
    run("-d", "501", "502", "-o", "520", "-n", "Both")
    label = sitk.ReadImage(str(raw / "Dataset520_Both" / "labelsTr" / "Liver_a.nii.gz"))
    image = sitk.ReadImage(str(raw / "Dataset520_Both" / "imagesTr" / "Liver_a_0000.nii.gz"))
    for one in (label, image):
        np.testing.assert_allclose(one.GetSpacing(), SPACING)
        np.testing.assert_allclose(one.GetOrigin(), ORIGIN)
        np.testing.assert_allclose(one.GetDirection(), DIRECTION, atol=1e-6)


def test_many_labels_take_the_next_type(raw):
    many = {"background": 0} | {f"label{i}": i for i in range(1, 251)}
    heart = make_dataset(raw, "Dataset501_Heart", many, cases=("a",), shape=(9, 9, 9))
    array = np.zeros((9, 9, 9))
    array[0, 0, :2] = 9
    for folder in (
        heart,
        make_dataset(raw, "Dataset502_Liver", {"background": 0, **{f"x{i}": i for i in range(1, 10)}}),
    ):
        for path in (folder / "labelsTr").iterdir():
            write(path, array, np.uint8)
    run("-d", "501", "502", "-o", "520", "-n", "Both")
    new = read(raw / "Dataset520_Both" / "labelsTr" / "Liver_a.nii.gz")
    assert new.dtype == np.uint16 and set(np.unique(new)) == {0, 259}
    assert read(raw / "Dataset520_Both" / "labelsTr" / "Heart_a.nii.gz").dtype == np.uint8


def test_every_folder_is_merged_and_counted(raw, capsys):
    heart = make_dataset(raw, "Dataset501_Heart", HEART)
    make_dataset(raw, "Dataset502_Liver", LIVER)
    image = np.ones((4, 6, 5))
    for place, case in (("imagesUn", "u"), ("imagesTs", "t"), ("imagesTs", "s")):
        write(heart / place / f"{case}_0000.nii.gz", image, np.int16)
    write(heart / "labelsTs" / "t.nii.gz", image * 2, np.uint8)  # s has none
    run("-d", "502", "501", "-o", "520", "-n", "Both")
    both = raw / "Dataset520_Both"
    names = {
        folder.name: sorted(p.name for p in folder.iterdir()) for folder in both.iterdir() if folder.is_dir()
    }
    assert names == {
        "imagesTr": [f"{task}_{case}_0000.nii.gz" for task in ("Heart", "Liver") for case in "ab"],
        "labelsTr": [f"{task}_{case}.nii.gz" for task in ("Heart", "Liver") for case in "ab"],
        "imagesUn": ["Heart_u_0000.nii.gz"],
        "imagesTs": ["Heart_s_0000.nii.gz", "Heart_t_0000.nii.gz"],
        "labelsTs": ["Heart_t.nii.gz"],
    }
    assert set(np.unique(read(both / "labelsTs" / "Heart_t.nii.gz"))) == {4}
    out = capsys.readouterr().out.split("\n")
    assert out[0].split() == ["task", "labels", "training", "unlabelled", "test"]
    assert out[2].split() == ["Liver", "1", "liver,", "2", "tumour", "2", "0", "0"]
    assert out[3].split() == ["Heart", "3", "atrium,", "4", "ventricle", "2", "1", "2"]
    assert "(7 image files linked)" in out[4]


def test_images_are_linked_and_survive_a_move_of_raw(raw, monkeypatch):
    heart = make_dataset(raw, "Dataset501_Heart", HEART)
    make_dataset(raw, "Dataset502_Liver", LIVER)
    run("-d", "501", "502", "-o", "520", "-n", "Both")
    image = raw / "Dataset520_Both" / "imagesTr" / "Heart_a_0000.nii.gz"
    assert image.is_symlink() and image.resolve() == heart / "imagesTr" / "a_0000.nii.gz"
    moved = raw.with_name("moved")
    raw.rename(moved)
    assert (moved / "Dataset520_Both" / "imagesTr" / "Heart_a_0000.nii.gz").resolve().is_file()


def test_links_from_outside_raw_are_absolute(raw, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    elsewhere = make_dataset(tmp_path / "elsewhere", "Dataset501_Heart", HEART)
    (raw / "Dataset501_Heart").symlink_to(elsewhere)
    make_dataset(raw, "Dataset502_Liver", LIVER)
    run("-d", "501", "502", "-o", "520", "-n", "Both")
    link = raw / "Dataset520_Both" / "imagesTr" / "Heart_a_0000.nii.gz"
    assert Path(os.readlink(link)) == elsewhere / "imagesTr" / "a_0000.nii.gz"


@pytest.mark.parametrize("is_set", [True, False])
def test_links_that_lie_outside_raw_are_absolute(raw, tmp_path, monkeypatch, is_set):
    """Of the two ends, one may be moved without the other."""
    if not is_set:
        monkeypatch.delenv("nnUNet_raw")
    (raw / "scan").write_text("scan")
    (tmp_path / "bench").mkdir()
    assert place_file(raw / "scan", tmp_path / "bench" / "scan", copy=False) == "linked"
    assert Path(os.readlink(tmp_path / "bench" / "scan")) == raw / "scan"


def test_copy_copies(raw, capsys):
    heart = make_dataset(raw, "Dataset501_Heart", HEART)
    make_dataset(raw, "Dataset502_Liver", LIVER)
    run("-d", "501", "502", "-o", "520", "-n", "Both", "--copy")
    image = raw / "Dataset520_Both" / "imagesTr" / "Heart_a_0000.nii.gz"
    source = heart / "imagesTr" / "a_0000.nii.gz"
    assert not image.is_symlink() and image.stat().st_ino != source.stat().st_ino
    assert image.read_bytes() == source.read_bytes()
    assert "4 image files copied" in capsys.readouterr().out


def test_without_symbolic_links_hard_links_then_copies(raw, monkeypatch):
    """As on Windows without the privilege, and across file systems."""
    source = raw / "source"
    source.write_text("scan")

    def refuse(*args, **kwargs):
        raise OSError("not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    assert place_file(source, raw / "hard", copy=False) == "hard-linked"
    assert (raw / "hard").stat().st_ino == source.stat().st_ino
    monkeypatch.setattr(os, "link", refuse)
    assert place_file(source, raw / "copy", copy=False) == "copied"
    before = set(raw.iterdir())

    def interrupted(_: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        place_file(source, raw / "later", copy=True)
    assert set(raw.iterdir()) == before  # nothing half, by whatever name
    assert (raw / "copy").read_text() == "scan"


def test_tasks_and_prompts_are_written(raw):
    block = {
        "tasks": [
            {"name": "old name", "labels": ["atrium", "ventricle"], "prompts": {"atrium": "Segment it."}}
        ]
    }
    make_dataset(raw, "Dataset501_Heart_MR", HEART, nnunet_ssl=block)
    make_dataset(raw, "Dataset502_Liver", LIVER)
    dataset_json = plan(501, 502).dataset_json
    assert dataset_json["nnunet_ssl"] == {
        "tasks": [
            {
                "name": "Heart_MR",
                "labels": ["atrium", "ventricle"],
                "prompts": {"atrium": "Segment it."},
                "prefix": "Heart_MR_",
            },
            {"name": "Liver", "labels": ["liver", "tumour"], "prompts": {}, "prefix": "Liver_"},
        ],
        "merged_from": ["Dataset501_Heart_MR", "Dataset502_Liver"],
    }
    assert dataset_json["name"] == "Both"
    table = TaskTable.from_dataset_json(dataset_json)
    assert [table.task_of(case) for case in ("Heart_MR_a", "Liver_b")] == [0, 1]


def test_a_merged_dataset_is_flattened(raw):
    make_dataset(raw, "Dataset501_Heart", HEART)
    liver = make_dataset(raw, "Dataset502_Liver", LIVER)
    make_dataset(raw, "Dataset503_Lung", {"background": 0, "lung": 1})
    run("-d", "501", "502", "-o", "520", "-n", "Both")
    write(raw / "Dataset520_Both" / "imagesUn" / "who_0000.nii.gz", np.ones((4, 6, 5)), np.int16)
    run("-d", "503", "520", "-o", "530", "-n", "All")
    folder = raw / "Dataset530_All"
    dataset_json = json.loads((folder / "dataset.json").read_text())
    assert [(t["name"], t["prefix"]) for t in dataset_json["nnunet_ssl"]["tasks"]] == [
        ("Lung", "Lung_"),
        ("Heart", "Both_Heart_"),
        ("Liver", "Both_Liver_"),
    ]
    table = TaskTable.from_dataset_json(dataset_json)
    assert table.task_of("Both_Liver_a") == 2 and table.known_task_of("Both_who") == -1
    old = read(liver / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(
        read(folder / "labelsTr" / "Both_Liver_a.nii.gz"), np.select([old == 1, old == 2], [4, 5])
    )
    # A link leads to the scan itself, so Dataset520 may go.
    assert (
        folder / "imagesTr" / "Both_Liver_a_0000.nii.gz"
    ).resolve() == liver / "imagesTr" / "a_0000.nii.gz"


def test_prefix_labels(raw):
    block = {
        "tasks": [{"name": "x", "labels": ["atrium", "ventricle"], "prompts": {"atrium": "Segment it."}}]
    }
    make_dataset(raw, "Dataset501_Heart", HEART, nnunet_ssl=block)
    make_dataset(raw, "Dataset502_Dog", {"background": 0, "Atrium": 1})
    with pytest.raises(
        TaskError, match="Both Dataset501_Heart and Dataset502_Dog have a label 'Atrium'.*--prefix-labels"
    ):
        plan(501, 502)
    dataset_json = plan(501, 502, prefix_labels=True).dataset_json
    assert dataset_json["labels"] == {
        "background": 0,
        "Heart_atrium": 1,
        "Heart_ventricle": 2,
        "Dog_Atrium": 3,
    }
    assert dataset_json["nnunet_ssl"]["tasks"][0]["prompts"] == {"Heart_atrium": "Segment it."}


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        (("CT",), ("CT",), ["CT"]),
        (("ct",), ("CT",), ["ct"]),
        (("MRI",), ("CT",), ["mixed_MRI_CT"]),
        (("T1", "T2"), ("T1", "FLAIR"), ["T1", "mixed_T2_FLAIR"]),
        (("noNorm",), ("noNorm",), ["noNorm"]),
        (("mixed_MRI_CT",), ("PET",), ["mixed_MRI_CT_PET"]),
    ],
)
def test_channel_names_decide_the_normalisation(raw, one, other, merged):
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import (
        get_normalization_scheme,
    )

    make_dataset(raw, "Dataset501_Heart", cases=("a",), channels=one)
    make_dataset(raw, "Dataset502_Liver", cases=("a",), channels=other)
    channels = merge_channels([load_source(501), load_source(502)])
    assert channels == merged
    for a, b, name in zip(one, other, channels, strict=True):
        scheme = get_normalization_scheme(name)
        if {get_normalization_scheme(a), get_normalization_scheme(b)} != {scheme}:
            assert scheme.__name__ == "ZScoreNormalization"


def test_2d_images(raw):
    make_dataset(raw, "Dataset501_Heart", HEART, ending=".png", shape=(6, 5))
    liver = make_dataset(raw, "Dataset502_Liver", LIVER, ending=".png", shape=(8, 9))
    run("-d", "501", "502", "-o", "520", "-n", "Both")
    old = read(liver / "labelsTr" / "a.png")
    new = read(raw / "Dataset520_Both" / "labelsTr" / "Liver_a.png")
    np.testing.assert_array_equal(new, np.select([old == 1, old == 2], [3, 4]))


def test_colour_images_have_three_channels_in_one_file(raw):
    for name in ("Dataset501_Heart", "Dataset502_Liver"):
        folder = make_dataset(raw, name, ending=".png", shape=(6, 5))
        dataset_json = json.loads((folder / "dataset.json").read_text())
        dataset_json["channel_names"] = {"0": "R", "1": "G", "2": "B"}
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        for path in (folder / "imagesTr").iterdir():
            sitk.WriteImage(sitk.GetImageFromArray(np.ones((6, 5, 3), np.uint8), isVector=True), str(path))
    assert plan(501, 502).dataset_json["channel_names"] == {"0": "R", "1": "G", "2": "B"}


def test_the_spacing_beside_a_tiff_comes_along(raw):
    tifffile = pytest.importorskip("tifffile")
    for name in ("Dataset501_Heart", "Dataset502_Liver"):
        folder = make_dataset(raw, name, cases=(), ending=".tif", overwrite_image_reader_writer="Tiff3DIO")
        for place, file in (("imagesTr", "a_0000"), ("labelsTr", "a")):
            (folder / place).mkdir()
            tifffile.imwrite(folder / place / f"{file}.tif", np.ones((5, 6, 7), np.uint8))
            (folder / place / "a.json").write_text('{"spacing": [2, 1, 1]}')
    run("-d", "501", "502", "-o", "520", "-n", "Both")
    both = raw / "Dataset520_Both"
    assert json.loads((both / "imagesTr" / "Heart_a.json").read_text()) == {"spacing": [2, 1, 1]}
    assert json.loads((both / "labelsTr" / "Heart_a.json").read_text()) == {"spacing": [2, 1, 1]}
    assert json.loads((both / "dataset.json").read_text())["overwrite_image_reader_writer"] == "Tiff3DIO"


def test_file_lists_in_dataset_json(raw):
    make_dataset(raw, "Dataset501_Heart", HEART)
    heart = "../Dataset501_Heart"
    listed = {"x": {"images": [f"{heart}/imagesTr/a_0000.nii.gz"], "label": f"{heart}/labelsTr/a.nii.gz"}}
    make_dataset(raw, "Dataset502_Liver", LIVER, cases=(), dataset=listed)
    assert plan(501, 502).cases["imagesTr"] == ["Heart_a", "Heart_b", "Liver_x"]


@pytest.mark.parametrize(
    ("heart", "liver", "message"),
    [
        (
            {},
            {"ending": ".png", "shape": (6, 5)},
            r"has file_ending '\.nii\.gz' but Dataset502_Liver has '\.png'\. Convert",
        ),
        ({}, {"channels": ("T1", "T2")}, r"1 channel\(s\) \(MRI\) but Dataset502_Liver has 2 \(T1, T2\)"),
        ({}, {"channels": ("noNorm",)}, "called MRI and noNorm in the datasets, and 'noNorm' asks"),
        ({"channels": ("rescale_to_0_1",)}, {"channels": ("CT",)}, "'rescale_to_0_1' asks"),
        ({}, {"shape": (1, 6, 5)}, "Dataset501_Heart is 3D, Dataset502_Liver is 2D"),
        (
            {},
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}},
            "Dataset502_Liver has region-based labels",
        ),
        ({"labels": {"background": 0, "a": 1, "ignore": 2}}, {}, "Dataset501_Heart has an ignore label"),
        ({}, {"overwrite_image_reader_writer": "NibabelIO"}, "Set the same reader in both"),
        ({"cases": ()}, {}, "Dataset501_Heart has no training images"),
    ],
)
def test_what_does_not_go_together(raw, heart, liver, message):
    make_dataset(raw, "Dataset501_Heart", **heart)
    make_dataset(raw, "Dataset502_Liver", **liver)
    with pytest.raises(DataError, match=message):
        run("-d", "501", "502", "-o", "520", "-n", "Both")
    assert not list(raw.glob("*520*"))


def test_files_that_are_missing(raw):
    make_dataset(raw, "Dataset501_Heart")
    liver = make_dataset(raw, "Dataset502_Liver", channels=("T1", "T2"))
    (liver / "imagesTr" / "b_0001.nii.gz").unlink()
    with pytest.raises(
        DataError, match=r"Case 'b' in imagesTr of Dataset502_Liver has 1 image file\(s\), expected 2"
    ):
        plan(501, 502)
    (liver / "labelsTr" / "a.nii.gz").unlink()
    with pytest.raises(DataError, match=r"Dataset502_Liver lacks 1 label file\(s\), first .*a\.nii\.gz"):
        plan(501, 502)
    (liver / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match=r"lacks the key\(s\) labels, file_ending"):
        plan(501, 502)
    (liver / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json is not valid JSON"):
        plan(501, 502)
    with pytest.raises(DataError, match=r"There is no dataset 777"):
        plan(501, 777)


def test_channel_names_that_do_not_fit_the_images(raw):
    make_dataset(raw, "Dataset501_Heart")
    liver = make_dataset(raw, "Dataset502_Liver")
    for folder in (liver, raw / "Dataset501_Heart"):
        content = json.loads((folder / "dataset.json").read_text())
        content["channel_names"] = {"0": "T1", "1": "T2"}
        (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"has 1 channel\(s\), but its dataset\.json names 2"):
        plan(501, 502)


@pytest.mark.parametrize("value", [7, 1.5])
def test_an_undeclared_value_stops_and_leaves_nothing(raw, value):
    make_dataset(raw, "Dataset501_Heart")
    liver = make_dataset(raw, "Dataset502_Liver")
    write(liver / "labelsTr" / "b.nii.gz", np.full((4, 6, 5), value), np.float32)
    with pytest.raises(
        DataError, match=rf"b\.nii\.gz holds the value\(s\) {value}, but its dataset\.json declares \[0, 1\]"
    ):
        run("-d", "501", "502", "-o", "520", "-n", "Both")
    assert sorted(p.name for p in raw.iterdir()) == ["Dataset501_Heart", "Dataset502_Liver"]


def test_unreadable_files(raw):
    heart = make_dataset(raw, "Dataset501_Heart")
    make_dataset(raw, "Dataset502_Liver")
    (heart / "labelsTr" / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match="Cannot read the label file"):
        run("-d", "501", "502", "-o", "520", "-n", "Both")
    (heart / "imagesTr" / "a_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match="nnU-Net cannot read"):
        run("-d", "501", "502", "-o", "520", "-n", "Both")


def test_an_interruption_leaves_nothing_that_looks_finished(raw, monkeypatch):
    make_dataset(raw, "Dataset501_Heart")
    make_dataset(raw, "Dataset502_Liver")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("nnunet_ssl.conversion.merge_files.remap_label_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("-d", "501", "502", "-o", "520", "-n", "Both")
    assert not list(raw.glob("*520*"))


def test_remains_of_a_killed_run_do_not_matter(raw):
    make_dataset(raw, "Dataset501_Heart")
    make_dataset(raw, "Dataset502_Liver")
    (raw / ".Dataset520_Both.building" / "imagesTr").mkdir(parents=True)
    (raw / ".Dataset520_Both.building" / "imagesTr" / "stray").touch()
    run("-d", "501", "502", "-o", "520", "-n", "Both")
    assert not (raw / "Dataset520_Both" / "imagesTr" / "stray").exists()
    assert not list(raw.glob(".*"))


def test_identifiers_stay_unique_and_lead_to_their_task(raw):
    make_dataset(raw, "Dataset501_Heart", cases=("MR_a",))
    make_dataset(raw, "Dataset502_Heart_MR", {"background": 0, "b": 1}, cases=("b",))
    with pytest.raises(
        DataError, match="'MR_a' of Dataset501_Heart would be called 'Heart_MR_a', which belongs to Heart_MR"
    ):
        plan(501, 502)


def test_a_scan_is_labelled_or_not(raw):
    heart = make_dataset(raw, "Dataset501_Heart")
    make_dataset(raw, "Dataset502_Liver")
    write(heart / "imagesUn" / "a_0000.nii.gz", np.ones((4, 6, 5)), np.int16)
    with pytest.raises(DataError, match="'Heart_a' would be given twice in imagesTr and imagesUn"):
        plan(501, 502)


def test_datasets_of_one_name_or_given_twice(raw):
    make_dataset(raw, "Dataset501_Heart", {"background": 0, "a": 1})
    make_dataset(raw, "Dataset502_Heart", {"background": 0, "b": 1})
    with pytest.raises(TaskError, match="'Heart' and 'Heart' share the name 'heart'"):
        plan(501, 502)
    with pytest.raises(DataError, match="Dataset501_Heart is given twice"):
        plan(501, 501)
    with pytest.raises(DataError, match="at least 2 datasets, got 1"):
        plan(501)


def test_the_target_must_be_free(raw, tmp_path, monkeypatch):
    make_dataset(raw, "Dataset501_Heart")
    make_dataset(raw, "Dataset502_Liver")
    (raw / "Dataset520_Other").mkdir()
    arguments = ["-d", "501", "502", "-n", "Both", "-o"]
    with pytest.raises(DataError, match="number of Dataset520_Both is taken by Dataset520_Other"):
        run(*arguments, "520")
    preprocessed = tmp_path / "preprocessed"
    (preprocessed / "Dataset521_Used").mkdir(parents=True)
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    with pytest.raises(DataError, match="taken by Dataset521_Used"):
        run(*arguments, "521")
    for number in ("0", "1000", "-1"):
        with pytest.raises(DataError, match="expected a number from 1 to 999"):
            run(*arguments, number)
    with pytest.raises(DataError, match="letters, digits"):
        run("-d", "501", "502", "-o", "522", "-n", "../Both")


def test_overwrite_replaces_what_merge_has_made_and_nothing_else(raw):
    make_dataset(raw, "Dataset501_Heart")
    make_dataset(raw, "Dataset502_Liver")
    arguments = ["-d", "501", "502", "-o", "520", "-n", "Both"]
    run(*arguments)
    with pytest.raises(DataError, match="exists.*--overwrite"):
        run(*arguments)
    make_dataset(raw, "Dataset503_Lung")
    run("-d", "501", "503", "-o", "520", "-n", "Both", "--overwrite")
    assert "Lung_a.nii.gz" in os.listdir(raw / "Dataset520_Both" / "labelsTr")
    assert "Liver_a.nii.gz" not in os.listdir(raw / "Dataset520_Both" / "labelsTr")
    assert not list(raw.glob(".*"))
    with pytest.raises(DataError, match="itself to be merged"):
        run("-d", "502", "520", "-o", "520", "-n", "Both", "--overwrite", "--prefix-labels")
    with pytest.raises(DataError, match="was not made by merge"):
        run("-d", "501", "502", "-o", "503", "-n", "Lung", "--overwrite")


def test_raw_must_be_set(monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=r"nnUNet_raw=\(not set\)"):
        load_source(501)


REAL = {501: "Dataset501_LeftAtriumMR", 503: "Dataset503_HippocampusMR", 504: "Dataset504_HeadNeckCT"}


@needs_data(*(RAW / name for name in REAL.values()))
def test_real_datasets(raw):
    for name in REAL.values():
        (raw / name).symlink_to(RAW / name)
    run("-d", *map(str, REAL), "-o", "520", "-n", "Union")
    folder = raw / "Dataset520_Union"
    dataset_json = json.loads((folder / "dataset.json").read_text())
    assert dataset_json["channel_names"] == {"0": "mixed_MRI_CT"}
    assert dataset_json["numTraining"] == len(os.listdir(folder / "labelsTr")) == 80 + 195 + 93
    assert list(dataset_json["labels"].values()) == list(range(9))
    offsets = {"LeftAtriumMR": 0, "HippocampusMR": 1, "HeadNeckCT": 3}
    for number, name in REAL.items():
        short = name.split("_")[1]
        assert len(list((folder / "imagesTr").glob(f"{short}_*"))) == {501: 80, 503: 195, 504: 93}[number]
        old_file = sorted((RAW / name / "labelsTr").iterdir())[0]
        old, new = read(old_file), read(folder / "labelsTr" / f"{short}_{old_file.name}")
        np.testing.assert_array_equal(new, np.where(old > 0, old.astype(int) + offsets[short], 0))
        assert (old > 0).any()
