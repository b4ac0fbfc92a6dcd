"""Recipes for volumes, each on a few tiny files in the layout of its official download."""

import ast
import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion.recipes import load_recipe, locate, plan_recipe, recipe_names, variants_of
from nnunet_ssl.errors import ConfigError, DataError
from tests.unit.convert_files import NAME, SPACING, blob, files, make, read, scan, splits, write

REPOSITORY = Path(__file__).resolve().parents[2]


def named(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


# all of them
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_is_complete(name):
    module = load_recipe(name)
    text = module.__doc__
    for part in ("Source:", "icence", "Layout", "Labels:", "What is done:", "Split:"):
        assert part in text, part
    for variant, recipe in variants_of(module).items():
        assert f"``{variant}``" in text or variant == "default"
        values = sorted(v for v in recipe.labels.values() if isinstance(v, int))
        assert recipe.labels["background"] == 0 and values == list(range(len(values)))
        assert recipe.layouts and all(recipe.layouts.values())
        written = set(recipe.values.values()) or set(values)
        assert {0, 1} <= written


def test_recipes_are_thin_and_named_after_their_files():
    files_ = sorted(p.stem for p in (REPOSITORY / "dataset_conversion").glob("*.py") if p.stem != "__init__")
    assert recipe_names() == files_
    for path in (REPOSITORY / "dataset_conversion").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (
                isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dataset_conversion")
            )


def test_names_are_forgiving_and_unknown_ones_listed():
    assert load_recipe("Left-Atrium") is load_recipe("left_atrium")
    with pytest.raises(ConfigError, match=r"There is no recipe 'heart'. Known: acdc, amos"):
        load_recipe("heart")


def test_download_is_found_in_folders_of_its_own_name(tmp_path):
    layouts = {"new": ("a/*.txt", "b/*.txt"), "old": ("*.old",)}
    for part in "ab":
        (tmp_path / "x" / "x" / part).mkdir(parents=True)
        (tmp_path / "x" / "x" / part / "1.txt").touch()
    assert locate(tmp_path, layouts) == (tmp_path / "x" / "x", "new")
    (tmp_path / "x" / "1.old").touch()
    assert locate(tmp_path, layouts) == (tmp_path / "x", "old")
    (tmp_path / "y").mkdir()
    with pytest.raises(DataError, match=r"expected a/\*\.txt and b/\*\.txt or \*\.old, found nothing"):
        locate(tmp_path / "y", layouts)
    with pytest.raises(DataError, match="is none"):
        locate(tmp_path / "z", layouts)


# left atrium
# -----------------------------------------------------------------------------------------------------

LABELED = ("06SR5RBREL16DQ6M8LWS", "5BHTH9RHH3PQT913I59W")  # the first and the 16th
TESTED = ("UPT6DX9IQY9JAZ7HJKA7", "ZQPMJ4XEC5A4BISD45P1")
OTHERS = tuple(f"T{i:019d}" for i in range(10))


def atrium(folder, names):
    for name in names:
        write(folder / name / "lgemri.nrrd", scan(len(name), dtype=np.uint8))
        write(folder / name / "laendo.nrrd", blob(255))


def test_left_atrium_nrrd(raw, download):
    atrium(download / "2018LA_Seg_Training Set", (*LABELED, *TESTED, *OTHERS))
    dataset = make("left_atrium", download)
    assert len(named(dataset / "imagesTr")) == 12
    assert named(dataset / "labelsTs") == [f"la_{name}.nii.gz" for name in TESTED]
    label = sitk.ReadImage(str(dataset / f"labelsTr/la_{LABELED[0]}.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), blob(1))
    assert label.GetSpacing() == SPACING
    made = splits(dataset)
    assert made["papers-8"][0]["train"] == [f"la_{LABELED[0]}"]
    assert made["papers-16"][0]["train"] == [f"la_{name}" for name in LABELED]
    for (one,) in made.values():
        assert len(one["val"]) == 8 and one["models_chosen_on_test"]
        assert not set(one["val"]) & set(one["unlabeled"])


def test_left_atrium_later_release(raw, download):
    atrium(download / "Training Set", (*LABELED, *TESTED))
    atrium(download / "Testing Set", OTHERS[:2])
    assert plan_recipe("left_atrium", download, NAME).counts() == {"train": 2, "test": 2}
    assert plan_recipe("left_atrium", download, NAME, "challenge").counts() == {"train": 4, "test": 2}


def test_left_atrium_h5(raw, download):
    h5py = pytest.importorskip("h5py", reason="needs the extra 'convert'")
    for name in (*LABELED, TESTED[0]):
        folder = download / "data" / "2018LA_Seg_Training Set" / name
        folder.mkdir(parents=True)
        (folder / "desktop.ini").touch()
        with h5py.File(folder / "mri_norm2.h5", "w") as file:
            file["image"] = scan(1).T.astype(np.float32)  # x, y, z
            file["label"] = blob().T
    dataset = make("left_atrium", download)
    image = sitk.ReadImage(str(dataset / f"imagesTr/la_{LABELED[0]}_0000.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan(1))
    np.testing.assert_allclose(image.GetSpacing(), (0.625,) * 3)
    np.testing.assert_array_equal(read(dataset / f"labelsTs/la_{TESTED[0]}.nii.gz"), blob())


def test_published_lists_are_whole():
    atrium_, brats, amos = (load_recipe(n) for n in ("left_atrium", "brats2019", "amos"))
    assert (
        len(atrium_.TEST) == 20
        and len(set(atrium_.LABELED)) == 16
        and not atrium_.TEST & set(atrium_.LABELED)
    )
    assert all(len(name) == 20 for name in (*atrium_.TEST, *atrium_.LABELED))
    parts = (brats.TEST, brats.VALIDATION, brats.FIRST_OF_TRAIN)
    assert [len(set(p)) for p in parts] == [60, 25, 50]
    assert len(set().union(*parts)) == 135
    for number, names in amos.LABELED.items():
        assert len(set(names.split())) == number
        assert not set(names.split()) & set(amos.VALIDATION.split())
    assert len(set(amos.VALIDATION.split())) == 24
    assert (len(load_recipe("msd_spleen").TEST), len(load_recipe("msd_lung").TEST)) == (11, 13)


# Medical Segmentation Decathlon
# ----------------------------------------------------------------------------------


def decathlon(folder, prefix, labelled, bare, width=1):
    for n in labelled:
        write(folder / "imagesTr" / f"{prefix}_{n:0{width}d}.nii.gz", scan(n))
        write(folder / "labelsTr" / f"{prefix}_{n:0{width}d}.nii.gz", blob())
    for n in bare:
        write(folder / "imagesTs" / f"{prefix}_{n:0{width}d}.nii.gz", scan(n))
    (folder / "imagesTr" / f"._{prefix}_1.nii.gz").write_bytes(b"macOS")
    (folder / "dataset.json").write_text("{}")


def test_spleen(raw, download):
    decathlon(download / "Task09_Spleen", "spleen", (2, 3, 6, 8, 9, 10, 12, 13, 14, 46, 63), (1, 7))
    dataset = make("msd_spleen", download)
    assert named(dataset / "imagesTs") == ["spleen_46_0000.nii.gz", "spleen_63_0000.nii.gz"]
    assert len(named(dataset / "imagesTr")) == 9
    assert (dataset / "imagesTr/spleen_2_0000.nii.gz").is_symlink()
    made = splits(dataset)
    assert made["versemi-3"][0]["train"] == ["spleen_2", "spleen_3", "spleen_6"]
    assert made["versemi-3"][0]["val"] == ["spleen_12", "spleen_13", "spleen_14"]
    assert made["versemi-3"][0]["unlabeled"] == ["spleen_10", "spleen_8", "spleen_9"]
    assert len(made) == 1  # with 6 of 9 cases labelled, no validation is left
    assert json.loads((dataset / "dataset.json").read_text())["channel_names"] == {"0": "CT"}


def test_bare_test_scans_of_the_decathlon(raw, download):
    decathlon(download / "Task09_Spleen", "spleen", (2, 46), (1, 7))
    assert plan_recipe("msd_spleen", download, NAME).counts() == {
        "train": 1,
        "test": 1,
    }  # never among labelled ones
    assert plan_recipe("msd_spleen", download, NAME, "all").counts() == {"train": 2, "test": 2}
    assert plan_recipe("msd_spleen", download, NAME, test_as_unlabeled=True).counts() == {
        "train": 1,
        "test": 1,
        "unlabeled": 2,
    }


def test_lung_and_hippocampus(raw, download):
    decathlon(download / "Task06_Lung", "lung", (1, 3, 4, 5, 6, *range(40, 48), 74, 96), (2,), width=3)
    made = {s.name: s for s in plan_recipe("msd_lung", download, NAME).splits}
    assert made["versemi-5"].folds[0]["train"] == [f"lung_{n:03d}" for n in (1, 3, 4, 5, 6)]
    assert made["versemi-5"].folds[0]["val"] == [f"lung_{n:03d}" for n in range(43, 48)]
    decathlon(download / "Task04_Hippocampus", "hippocampus", (1,), (2,), width=3)
    plan = plan_recipe("msd_hippocampus", download, NAME)
    assert plan.labels == {"background": 0, "anterior": 1, "posterior": 2}
    assert plan.counts() == {"train": 1, "test": 1}


# BTCV, AMOS, ACDC
# ------------------------------------------------------------------------------------------------


def test_btcv(raw, download):
    write(download / "RawData/Training/img/img0001.nii.gz", scan())
    write(download / "RawData/Training/label/label0001.nii.gz", blob(13))
    write(download / "RawData/Testing/img/img0061.nii.gz", scan(1))
    dataset = make("btcv", download, test_as_unlabeled=True)
    assert named(dataset / "imagesUn") == ["btcv_0061_0000.nii.gz"]
    np.testing.assert_array_equal(read(dataset / "labelsTr/btcv_0001.nii.gz"), blob(13))
    assert json.loads((dataset / "dataset.json").read_text())["labels"]["left_adrenal_gland"] == 13


def amos(download):
    for part, numbers in (("Tr", (1, 9, 27, 66, 78, 540)), ("Va", (8, 598)), ("Ts", (2, 507))):
        for n in numbers:
            write(download / "amos22" / f"images{part}" / f"amos_{n:04d}.nii.gz", scan(n))
            if part != "Ts":
                write(download / "amos22" / f"labels{part}" / f"amos_{n:04d}.nii.gz", blob(15))


def test_amos(raw, download):
    amos(download)
    dataset = make("amos", download)
    assert named(dataset / "imagesTs") == ["amos_0008_0000.nii.gz", "amos_0598_0000.nii.gz"]
    (five,) = splits(dataset)["dhc-5percent"]
    assert five["train"] == ["amos_0078"]
    assert five["val"] == ["amos_0027", "amos_0066", "amos_0540"]
    assert five["unlabeled"] == ["amos_0001", "amos_0009"]
    assert five["models_chosen_on_test"] is False
    assert splits(dataset)["dhc-10percent"][0]["train"] == ["amos_0009"]


def test_amos_ct_is_what_nnunet_takes_for_ct(raw, download):
    from nnunetv2.dataset_conversion.Dataset218_Amos2022_task1 import convert_amos_task1

    amos(download)
    content = {"labels": {"0": "background", "15": "prostate/uterus"}}
    for key, part in (("training", "Tr"), ("validation", "Va"), ("test", "Ts")):
        names = [p.name for p in sorted((download / f"amos22/images{part}").iterdir())]
        content[key] = [{"image": f"./images{part}/{name}"} for name in names]
    (download / "amos22/dataset.json").write_text(json.dumps(content))
    convert_amos_task1(str(download / "amos22"), 218)
    theirs = raw / "Dataset218_AMOS2022_postChallenge_task1"
    plan = plan_recipe("amos", download, NAME, "ct", test_as_unlabeled=True)
    ours = {subset: {c.identifier for c in plan.cases if c.subset == subset} for subset in plan.counts()}
    assert {f"{c}_0000.nii.gz" for c in ours["train"] | ours["test"]} == set(named(theirs / "imagesTr"))
    assert {f"{c}_0000.nii.gz" for c in ours["unlabeled"]} == set(named(theirs / "imagesTs"))
    assert plan.channels == ("CT",)


def acdc(folder):
    for n in (*range(1, 11), 101):
        patient = folder / ("testing" if n > 100 else "training") / f"patient{n:03d}"
        for frame in ("01", f"{n % 20 + 10}"):
            write(patient / f"patient{n:03d}_frame{frame}.nii.gz", scan(n))
            write(patient / f"patient{n:03d}_frame{frame}_gt.nii.gz", blob(3))
        write(patient / f"patient{n:03d}_4d.nii.gz", scan())
        (patient / "Info.cfg").write_text("ED: 1\n")


def test_acdc_is_that_of_nnunet_with_labels_for_the_test(raw, download):
    from nnunetv2.dataset_conversion.Dataset027_ACDC import copy_files, create_ACDC_split

    acdc(download / "ACDC" / "database")
    dataset = make("acdc", download)
    theirs = raw / "theirs"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (theirs / folder).mkdir(parents=True)
    copy_files(download / "ACDC/database", *(theirs / f for f in ("imagesTr", "labelsTr", "imagesTs")))
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        assert named(dataset / folder) == named(theirs / folder)
    for name in named(theirs / "labelsTr"):
        np.testing.assert_array_equal(read(dataset / "labelsTr" / name), read(theirs / "labelsTr" / name))
    assert named(dataset / "labelsTs") == ["patient101_frame01.nii.gz", "patient101_frame11.nii.gz"]
    expected = create_ACDC_split(str(theirs / "labelsTr"))
    made = splits(dataset)["nnunet-5fold"]
    assert [sorted(f["val"]) for f in expected] == [f["val"] for f in made]
    assert all(f["unlabeled"] == [] for f in made)


# M&Ms
# ------------------------------------------------------------------------------------------------------------


def mnms(folder, skew=False):
    subjects = {
        "Training/Labeled": [(f"A{i}", "A") for i in range(4)] + [(f"B{i}", "B") for i in range(4)],
        "Training/Unlabeled": [("U0", "C")],
        "Validation": [("C0", "C"), ("D0", "D")],
        "Testing": [("C1", "C"), ("D1", "D")],
    }
    rows = []
    affine = np.diag([-0.5, -0.75, 3.0, 1.0])
    affine[0, 1] = 0.01 if skew else 0
    for part, names in subjects.items():
        for name, vendor in names:
            rows.append({"External code": name, "VendorName": "x", "Vendor": vendor, "ED": 0, "ES": 2})
            where = folder / part / name
            where.mkdir(parents=True)
            sequence = np.stack([scan(i) for i in range(3)])
            labels = np.stack([blob(i + 1) for i in range(3)])
            nibabel.save(nibabel.Nifti1Image(sequence.T, affine), where / f"{name}_sa.nii.gz")
            if part != "Training/Unlabeled":
                nibabel.save(nibabel.Nifti1Image(labels.T, affine), where / f"{name}_sa_gt.nii.gz")
    table = folder / "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_mnms(raw, download):
    mnms(download / "OpenDataset", skew=True)
    dataset = make("mnms", download)
    assert len(named(dataset / "imagesTr")) == 24 and not (dataset / "imagesUn").exists()
    image = sitk.ReadImage(str(dataset / "imagesTr/B_B1_frame02_0000.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan(2))
    np.testing.assert_allclose(image.GetSpacing(), SPACING, rtol=1e-3)
    np.testing.assert_array_equal(read(dataset / "labelsTr/B_B1_frame02.nii.gz"), blob(3))


def test_mnms_frames_are_those_of_nnunet(raw, download):
    from nnunetv2.dataset_conversion.Dataset114_MNMs import read_csv, save_cardiac_phases

    mnms(download / "OpenDataset")
    dataset = make("mnms", download)
    table = read_csv(str(next((download / "OpenDataset").glob("*.csv"))))
    theirs = raw / "theirs"
    for folder in ("imagesTr", "labelsTr"):
        (theirs / folder).mkdir(parents=True)
    subjects = sorted((download / "OpenDataset/Training/Labeled").iterdir())
    save_cardiac_phases(subjects, table, theirs / "imagesTr", theirs / "labelsTr")
    assert len(named(theirs / "labelsTr")) == 16
    for folder in ("imagesTr", "labelsTr"):
        for name in named(theirs / folder):
            ours = dataset / folder / f"{name[0]}_{name}"
            np.testing.assert_array_equal(read(ours), read(theirs / folder / name))
            assert sitk.ReadImage(str(ours)).GetSpacing() == pytest.approx(SPACING)


def test_mnms_leaves_one_vendor_out(raw, download):
    mnms(download / "OpenDataset")
    dataset = make("mnms", download)
    made = splits(dataset)
    assert sorted(made) == ["leave-one-vendor-out-2percent", "leave-one-vendor-out-5percent"]
    for folds in made.values():
        assert len(folds) == 4
        for vendor, one in zip("ABCD", folds, strict=True):
            assert {case[0] for case in one["val"]} == {vendor}
            assert {case[0] for case in one["train"]} == set("ABCD") - {vendor}
            assert vendor not in {case[0] for case in one["unlabeled"]}
            subjects = {case.split("_")[1] for case in one["train"]}
            assert len(one["train"]) == 2 * len(subjects)  # both frames of a subject
            assert "test set" in one["note"]


def test_mnms_with_the_unlabelled_subjects(raw, download):
    mnms(download / "OpenDataset")
    dataset = make("mnms", download, "all")
    assert named(dataset / "imagesUn") == ["C_U0_frame00_0000.nii.gz", "C_U0_frame02_0000.nii.gz"]
    (download / "OpenDataset/Testing/Z9").mkdir()
    with pytest.raises(DataError, match="Z9 is not in the table"):
        plan_recipe("mnms", download, NAME)


# BraTS 2019
# ------------------------------------------------------------------------------------------------------

PATIENTS = {
    "HGG": ("TCIA02_370", "CBICA_ASA", "CBICA_AAP", "TCIA02_309"),  # two of train, one of val, one of test
    "LGG": ("2013_29",),
}


def brats(folder, ending):
    label = np.zeros((4, 6, 5), np.uint8)
    label[1, 2, :3] = (1, 2, 4)
    for grade, names in PATIENTS.items():
        for short in names:
            name = f"BraTS19_{short}_1"
            for i, sequence in enumerate(("t1", "t1ce", "t2", "flair")):
                write(folder / grade / name / f"{name}_{sequence}{ending}", scan(i))
            write(folder / grade / name / f"{name}_seg{ending}", label)
    (folder / "name_mapping.csv").touch()
    return label


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_brats_whole_tumour(raw, download, ending):
    label = brats(download / "MICCAI_BraTS_2019_Data_Training", ending)
    dataset = make("brats2019", download)
    assert named(dataset / "imagesTs") == ["BraTS19_TCIA02_309_1_0000.nii.gz"]
    np.testing.assert_array_equal(read(dataset / "imagesTr/BraTS19_2013_29_1_0000.nii.gz"), scan(3))
    np.testing.assert_array_equal(read(dataset / "labelsTr/BraTS19_2013_29_1.nii.gz"), label > 0)
    (one,) = splits(dataset)["ssl4mis-25"]
    assert one["train"] == ["BraTS19_CBICA_ASA_1", "BraTS19_TCIA02_370_1"]
    assert (one["val"], one["unlabeled"]) == (["BraTS19_CBICA_AAP_1"], ["BraTS19_2013_29_1"])


def test_brats_regions_are_those_of_nnunet(raw, download, tmp_path):
    from nnunetv2.dataset_conversion.Dataset043_BraTS19 import (
        copy_BraTS_segmentation_and_convert_labels_to_nnUNet,
    )

    brats(download, ".nii.gz")
    dataset = make("brats2019", download, "regions")
    name = "BraTS19_2013_29_1"
    copy_BraTS_segmentation_and_convert_labels_to_nnUNet(
        str(download / "LGG" / name / f"{name}_seg.nii.gz"), str(tmp_path / "theirs.nii.gz")
    )
    np.testing.assert_array_equal(read(dataset / f"labelsTr/{name}.nii.gz"), read(tmp_path / "theirs.nii.gz"))
    assert files(dataset / "imagesTs") == [f"BraTS19_TCIA02_309_1_{i:04d}.nii.gz" for i in range(4)]
    content = json.loads((dataset / "dataset.json").read_text())
    assert content["regions_class_order"] == [1, 2, 3]
    assert content["labels"]["tumor core"] == [2, 3]


def test_brats_incomplete(raw, download):
    brats(download, ".nii.gz")
    (download / "LGG/BraTS19_2013_29_1/BraTS19_2013_29_1_seg.nii.gz").unlink()
    (download / "LGG/BraTS19_2013_30_1").mkdir()
    write(download / "LGG/BraTS19_2013_30_1/BraTS19_2013_30_1_seg.nii.gz", blob())
    with pytest.raises(DataError, match=r"lacks BraTS19_2013_29_1_seg\.nii\.gz"):
        plan_recipe("brats2019", download, NAME)


def test_the_page_on_datasets_lists_every_recipe():
    page = (REPOSITORY / "docs" / "datasets.md").read_text()
    table = page.split("| recipe | set |")[1].split("\n\n")[0]
    rows = {line.split("`")[1]: line for line in table.splitlines()[2:]}
    assert sorted(rows) == recipe_names()
    for name, row in rows.items():
        recipe = load_recipe(name).RECIPE
        assert f"| {recipe.licence} |" in row, name
