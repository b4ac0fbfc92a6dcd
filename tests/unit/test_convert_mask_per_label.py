"""``convert folder --mask-per-label``: one mask file per structure, in the layouts that exports have."""

import json
import os
from argparse import ArgumentParser

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.commands import convert as command
from nnunet_ssl.conversion.cases import files_of
from nnunet_ssl.conversion.folder import plan_folder, scans_of
from nnunet_ssl.conversion.folder_options import FolderOptions
from nnunet_ssl.conversion.mask_files import read_masks
from nnunet_ssl.errors import ConfigError, DataError
from tests.unit.convert_files import NAME, SHAPE, blob, files, gray, itk, picture, read, scan, write

LABELS = ("liver", "spleen")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def planned(folder, *labels, **options):
    return plan_folder(folder, NAME, FolderOptions(mask_per_label=True, labels=labels or LABELS, **options))


def found(folder, *labels, **options):
    """Identifier -> paths of the masks, ``None`` for a bare scan."""
    return {
        case.identifier: None
        if case.label is None
        else [path.relative_to(folder).as_posix() for path in files_of(case.label)]
        for case in planned(folder, *labels, **options).plan.cases
    }


def run(*arguments):
    parser = ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([*map(str, arguments), "-np", "1"]))


def box(*where, value=1, shape=SHAPE):
    mask = np.zeros(shape, np.uint8)
    mask[where] = value
    return mask


LIVER = box(slice(0, 2), slice(1, 4), slice(1, 3), value=255)
SPLEEN = box(slice(1, 4), slice(3, 6), slice(2, 5))
BOTH = np.where(SPLEEN > 0, 2, LIVER > 0).astype(np.uint8)

# Scans, then masks of liver, of spleen, and of what was not asked for, in the case P1.
LAYOUTS = {
    "TotalSegmentator": (
        "{}/ct.nii.gz",
        "{}/segmentations/liver.nii.gz",
        "{}/segmentations/spleen.nii.gz",
        "{}/segmentations/aorta.nii.gz",
    ),
    "PDDCA": (
        "{}/img.nrrd",
        "{}/structures/Liver.nrrd",
        "{}/structures/SPLEEN.nrrd",
        "{}/structures/Aorta.nrrd",
    ),
    "Slicer": (
        "{}/image.nrrd",
        "{}/Segmentation_liver.nrrd",
        "{}/Segmentation-spleen-label.nrrd",
        "{}/Segmentation_aorta.nrrd",
    ),
    "beside the scan": ("{}.nii.gz", "{}_liver.nii.gz", "{}_spleen_mask.nii.gz", "{}_aorta.nii.gz"),
    "beside the scan, mask before": (
        "{}.nii.gz",
        "{}-seg-liver.nii.gz",
        "{}.mask.spleen.nii.gz",
        "{} aorta.nii.gz",
    ),
    "beside the scan in its folder": (
        "{}/ct.nii.gz",
        "{}/liver.nii.gz",
        "{}/spleen.nii.gz",
        "{}/aorta.nii.gz",
    ),
    "in a folder called like the scan": (
        "{}.nii.gz",
        "{}/liver.nii.gz",
        "{}/spleen.nii.gz",
        "{}/aorta.nii.gz",
    ),
    "in a folder with a name of its own": (
        "{}/ct.nii.gz",
        "{}/organs/liver.nii.gz",
        "{}/organs/spleen.nii.gz",
        "{}/organs/aorta.nii.gz",
    ),
    "tree of masks": (
        "scans/{}.nii.gz",
        "masks/{}/liver.nii.gz",
        "masks/{}/spleen.nii.gz",
        "masks/{}/aorta.nii.gz",
    ),
    "tree of masks with names": (
        "scans/{}.nii.gz",
        "masks/{}_liver.nii.gz",
        "masks/{}/{}_spleen.nii.gz",
        "masks/{}_aorta.nii.gz",
    ),
    "nnU-Net's folders": (
        "imagesTr/{}_0000.nii.gz",
        "labelsTr/{}_liver.nii.gz",
        "labelsTr/{}_0000_spleen.nii.gz",
        "labelsTr/{}_aorta.nii.gz",
    ),
    "folder per structure": (
        "scans/{}.nii.gz",
        "liver/{}.nii.gz",
        "masks/Spleen/{}.nii.gz",
        "masks/aorta/{}.nii.gz",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(folder, raw, layout):
    for number, case in enumerate(("P1", "P2")):
        arrays = (scan(number), LIVER, SPLEEN * (number + 1), LIVER)
        for path, array in zip(layout, arrays, strict=True):
            write(folder / path.format(case, case), array)
    wanted = [path.format("P2", "P2") for path in layout[1:3]]
    assert {*found(folder)} == {"P1", "P2"} and sorted(found(folder)["P2"]) == sorted(wanted)
    told = "name no label: 2 file(s)" if layout[3].startswith("masks/aorta") else "aorta"
    assert any(told in note.lower() for note in planned(folder).notes)
    run("folder", "-i", folder, "-o", NAME, "--mask-per-label", "--labels", *LABELS)
    ending = ".nrrd" if layout[0].endswith(".nrrd") else ".nii.gz"
    assert files(raw / NAME / "labelsTr") == [f"P1{ending}", f"P2{ending}"]
    for case in ("P1", "P2"):
        np.testing.assert_array_equal(read(raw / NAME / f"labelsTr/{case}{ending}"), BOTH)
    names = json.loads((raw / NAME / "dataset.json").read_text())["labels"]
    assert names == {"background": 0, "liver": 1, "spleen": 2}


def total_segmentator(folder, *cases):
    """Cases P1, P2, ... with the masks named of each; liver and spleen overlap."""
    arrays = {"liver": LIVER, "spleen": SPLEEN}
    for number, names in enumerate(cases, start=1):
        write(folder / f"P{number}" / "ct.nii.gz", scan(number))
        for name in names:
            mask = arrays.get(name, blob())
            write(folder / f"P{number}" / "segmentations" / f"{name}.nii.gz", mask)
    return folder


def test_one_patient_alone(folder):
    total_segmentator(folder, LABELS)
    assert found(folder / "P1") == {"ct": ["segmentations/liver.nii.gz", "segmentations/spleen.nii.gz"]}


def test_the_only_scan_of_a_folder_may_bear_any_name(folder):
    for case in ("P1", "P2"):
        write(folder / case / "thorax.nii.gz", scan())
        write(folder / case / "liver.nii.gz", LIVER)
    assert found(folder, "liver") == {f"{case}_thorax": [f"{case}/liver.nii.gz"] for case in ("P1", "P2")}
    write(folder / "P1" / "aorta.nii.gz", LIVER)  # which of the two is the scan?
    with pytest.raises(DataError, match=r"1 mask\(s\) fit no scan: .*P1/liver"):
        planned(folder, "liver")
    assert len(found(folder, "liver", images="*/thorax.nii.gz")) == 2


def test_order_of_the_names_decides_in_overlaps_and_is_told(folder):
    total_segmentator(folder, LABELS)
    plan = planned(folder, "spleen", "liver")
    assert plan.plan.labels == {"background": 0, "spleen": 1, "liver": 2}
    label = sitk.GetArrayFromImage(plan.plan.cases[0].label())
    np.testing.assert_array_equal(label, np.where(LIVER > 0, 2, SPLEEN))
    assert "Where structures overlap, the later one holds: spleen, liver." in plan.notes


def test_other_masks_are_left_out_and_told(folder):
    total_segmentator(folder, (*LABELS, "aorta", "left_kidney"))
    write(folder / "P9" / "segmentations" / "aorta.nii.gz", blob())  # of no scan
    notes = planned(folder).notes
    assert "Structures not taken: aorta, left_kidney." in notes
    assert "Left out, masks that fit no scan or name no label: 1 file(s), aorta.nii.gz." in notes


def test_longest_name_wins(folder):
    total_segmentator(folder, ("kidney", "left_kidney", "Kidney.Right"))
    expected = {name: [f"P1/segmentations/{name}.nii.gz"] for name in ("kidney", "left_kidney")}
    assert {name: found(folder, name)["P1"] for name in expected} == expected
    assert found(folder, "kidney right", "LEFT-KIDNEY")["P1"] == [
        "P1/segmentations/Kidney.Right.nii.gz",
        "P1/segmentations/left_kidney.nii.gz",
    ]


def test_longest_name_wins_beside_scans(folder):
    write(folder / "P1.nii.gz", scan())
    write(folder / "P1_left_kidney.nii.gz", LIVER)
    assert found(folder, "left kidney") == {"P1": ["P1_left_kidney.nii.gz"]}
    with pytest.raises(DataError, match=r"no file holds kidney\. Found: left_kidney\."):
        planned(folder, "kidney")
    write(folder / "P1_kidney.nii.gz", SPLEEN)
    assert found(folder, "kidney") == {"P1": ["P1_kidney.nii.gz"]}
    plan = planned(folder, "kidney", "left_kidney").plan
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(plan.cases[0].label()), np.where(LIVER > 0, 2, SPLEEN)
    )


def test_mask_that_a_patient_lacks_is_no_background(folder, raw):
    total_segmentator(folder, LABELS, ("liver", "aorta"), ("aorta",), ())
    with pytest.raises(DataError) as refused:
        planned(folder)
    assert "missing in 2 of 3 cases" in str(refused.value)
    assert "P2 has no spleen (it has aorta, liver), P3 has no liver, spleen (it has aorta)" in str(
        refused.value
    )
    run("folder", "-i", folder, "-o", NAME, "--mask-per-label", "--labels", *LABELS, "--skip-errors")
    assert files(raw / NAME / "labelsTr") == ["P1.nii.gz"]
    assert files(raw / NAME / "imagesUn") == ["P4_0000.nii.gz"]


def test_masks_may_be_missing_where_the_user_says_so(folder, raw):
    total_segmentator(folder, LABELS, ("spleen",), ("aorta",))
    notes = planned(folder, allow_missing=True).notes
    assert any("P3 has no liver, spleen (it has aorta). They are taken to be without." in n for n in notes)
    run("folder", "-i", folder, "-o", NAME, "--mask-per-label", "--labels", *LABELS, "--allow-missing-labels")
    for case, label in (("P1", BOTH), ("P2", SPLEEN * 2), ("P3", 0 * SPLEEN)):
        np.testing.assert_array_equal(read(raw / NAME / f"labelsTr/{case}.nii.gz"), label)


def test_empty_mask_says_that_the_structure_is_not_there(folder):
    total_segmentator(folder, LABELS)
    write(folder / "P1" / "segmentations" / "liver.nii.gz", 0 * LIVER)
    label = planned(folder).plan.cases[0].label()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), SPLEEN * 2)


@pytest.mark.parametrize("other", ["P1/liver.nii.gz", "P1/segmentations/Liver_mask.nii.gz", "P1_liver.nrrd"])
def test_two_files_of_one_label(folder, other):
    total_segmentator(folder, LABELS, LABELS)
    write(folder / other, LIVER)
    if other == "P1_liver.nrrd":  # the scan is called ct
        (folder / "P1" / "ct.nii.gz").rename(folder / "P1" / "P1.nii.gz")
    with pytest.raises(DataError, match=r"has several masks of liver: .*iver.*, .*iver") as refused:
        planned(folder)
    assert str(folder / other) in str(refused.value)
    assert str(folder / "P1" / "segmentations" / "liver.nii.gz") in str(refused.value)


def test_masks_without_scan(folder):
    total_segmentator(folder, LABELS, (*LABELS, "aorta"))
    (folder / "P2" / "ct.nii.gz").unlink()
    with pytest.raises(DataError, match=r"2 mask\(s\) fit no scan: .*P2.*NAME_LABEL beside NAME"):
        planned(folder)
    assert [*found(folder, skip_orphans=True)] == ["P1"]
    note = "masks that fit no scan or name no label: 3 file(s), aorta.nii.gz, liver.nii.gz, spleen.nii.gz"
    assert any(note in text for text in planned(folder, skip_orphans=True).notes)


def test_masks_of_other_labels_are_no_scans(folder):
    """Neither beside a scan with masks nor beside a bare one; but a scan stays one if the user says so."""
    for case in ("P1", "P10", "P2", "P2_3"):
        write(folder / f"{case}.nii.gz", scan())
    write(folder / "P1_liver.nii.gz", LIVER)
    write(folder / "P1_aorta.nii.gz", LIVER)
    write(folder / "P2_late.nii.gz", LIVER)
    assert found(folder, "liver") == {"P1": ["P1_liver.nii.gz"], "P10": None, "P2": None, "P2_3": None}
    (told,) = (note for note in planned(folder, "liver").notes if "taken for masks of other labels" in note)
    assert told.endswith("2 file(s), P1_aorta.nii.gz, P2_late.nii.gz.")
    assert found(folder, "liver", images="P*[0-9e].nii.gz") == {
        "P1": ["P1_liver.nii.gz"],
        "P10": None,
        "P2": None,
        "P2_3": None,
        "P2_late": None,
    }


def test_masks_elsewhere(folder, tmp_path):
    for case in ("P1", "P2"):
        write(folder / f"{case}.nii.gz", scan())
        for name in (*LABELS, "aorta"):
            write(tmp_path / "drawn" / case / f"{name}.nii.gz", LIVER)
    cases = planned(folder, masks=str(tmp_path / "drawn")).plan.cases
    assert [path.name for path in files_of(cases[1].label)] == ["liver.nii.gz", "spleen.nii.gz"]


def test_scans_to_add_are_not_the_masks(folder):
    for name in ("P1", "P1_liver", "P1_aorta", "P2"):
        write(folder / f"{name}.nii.gz", scan())
    cases, notes = scans_of(folder, FolderOptions(mask_per_label=True, labels=("liver",)))
    assert [case.identifier for case in cases] == ["P1", "P2"]
    assert notes == ["Left out, masks: 2 file(s), P1_liver.nii.gz, P1_aorta.nii.gz."]


def test_masks_on_other_voxels(folder, raw):
    total_segmentator(folder, LABELS)
    spleen = folder / "P1" / "segmentations" / "spleen.nii.gz"
    write(spleen, SPLEEN, origin=(0.0, 0.0, 0.0))
    command = ("folder", "-i", folder, "-o", NAME, "--mask-per-label", "--labels", *LABELS)
    with pytest.raises(DataError, match=r"spleen\.nii\.gz has size .*liver\.nii\.gz has size .*same voxels"):
        run(*command)
    for name, mask in (("liver", LIVER), ("spleen", SPLEEN)):  # both alike, on the voxels of the scan turned
        turned = sitk.DICOMOrient(itk(mask), "RAI")
        sitk.WriteImage(turned, str(spleen.with_name(f"{name}.nii.gz")))
    run(*command)
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/P1.nii.gz"), BOTH)


def test_a_changed_mask_is_converted_anew(folder, raw, capsys):
    total_segmentator(folder, (*LABELS, "aorta"))
    command = ("folder", "-i", folder, "-o", NAME, "--mask-per-label", "--labels", *LABELS)
    run(*command)
    aorta, spleen = (folder / "P1" / "segmentations" / f"{name}.nii.gz" for name in ("aorta", "spleen"))
    os.utime(aorta, (1, 1))  # not taken: no reason to begin again
    run(*command)
    assert "already holds this" in capsys.readouterr().out
    write(spleen, 0 * SPLEEN)
    os.utime(spleen, (1, 1))
    with pytest.raises(DataError, match="--overwrite"):
        run(*command)
    run(*command, "--overwrite")
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/P1.nii.gz"), LIVER > 0)


def test_dry_run_shows_the_masks(folder, raw, capsys):
    total_segmentator(folder, (*LABELS, "aorta"), ())
    run("folder", "-i", folder, "-o", NAME, "--mask-per-label", "--labels", *LABELS, "--dry-run")
    out = capsys.readouterr().out
    assert not [*raw.iterdir()]
    assert [line.split() for line in out.splitlines() if line.startswith("P")] == [
        [
            "P1",
            "imagesTr",
            "P1/ct.nii.gz",
            "P1/segmentations/liver.nii.gz,",
            "P1/segmentations/spleen.nii.gz",
            "link",
        ],
        ["P2", "imagesUn", "P2/ct.nii.gz", "-", "link"],
    ]
    assert "Labels: background 0, liver 1, spleen 2." in out and "Structures not taken: aorta." in out


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pictures(folder, raw, ending):
    """PNG masks of 0 and 3, and JPEG masks with blurred edges, which are cut; a PNG among them is not."""
    liver, spleen = (box(*where, shape=(16, 24)) for where in (np.s_[2:10, 3:12], np.s_[8:15, 8:20]))
    picture(folder / "images" / "a.png", gray(shape=(16, 24)))
    picture(folder / "masks" / f"a_liver.{ending}", liver * np.uint8(3 if ending == "png" else 255))
    picture(folder / "masks" / "a_spleen.png", spleen)
    run("folder", "-i", folder, "-o", NAME, "--mask-per-label", "--labels", *LABELS)
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/a.png"), np.where(spleen, 2, liver))
    cut = [note for note in planned(folder).notes if "half brightness" in note]
    assert len(cut) == (ending == "jpg")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "--labels liver spleen"),
        (("liver=2",), "expected names of masks, got 'liver=2'"),
        (("liver", "background"), "got 'background'"),
        (("_",), "got '_'"),
        (("left kidney", "Left_Kidney"), "names a mask twice"),
    ],
)
def test_wrong_labels(labels, message):
    with pytest.raises(ConfigError, match=message):
        FolderOptions(mask_per_label=True, labels=labels)


def test_no_mask_of_the_labels_named(folder):
    write(folder / "P1.nii.gz", scan())
    with pytest.raises(DataError, match="expected masks called liver, spleen, found no mask"):
        planned(folder)
    write(folder / "P1_aorta_mask.nii.gz", LIVER)
    with pytest.raises(DataError, match=r"no file holds liver, spleen\. Found: aorta\."):
        planned(folder)


def test_lone_label_without_any_mask_is_told_when_read(tmp_path):
    liver = write(tmp_path / "liver.nii.gz", LIVER)
    with pytest.raises(
        DataError, match=r"liver\.nii\.gz: expected masks of liver, spleen, found none of spleen"
    ):
        read_masks((("liver", liver),), LABELS)


def test_more_labels_than_a_byte_holds(tmp_path):
    liver = write(tmp_path / "liver.nii.gz", LIVER)
    names = (*map(str, range(299)), "liver")
    label = read_masks((("liver", liver),), names, allow_missing=True)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), np.where(LIVER > 0, 300, 0))


@pytest.mark.parametrize("layout", ["TotalSegmentator", "PDDCA", "tree of masks with names"])
def test_the_option_is_recommended(folder, layout):
    for path in LAYOUTS[layout]:
        write(folder / path.format("P1", "P1"), LIVER)
    with pytest.raises(DataError, match="fit no scan: .*add --mask-per-label and name those to take"):
        plan_folder(folder, NAME, FolderOptions())


def test_the_option_is_recommended_for_several_masks_of_one_scan(folder):
    write(folder / "P1.nii.gz", scan())
    for name in ("P1_mask", "P1_roi"):
        write(folder / f"{name}.nii.gz", LIVER)
    with pytest.raises(DataError, match="several masks: .*add --mask-per-label and name those to take"):
        plan_folder(folder, NAME, FolderOptions())
