"""DICOM: series, structures and segmentations in a folder, and NIH Pancreas-CT with its turned labels."""

import os

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("pydicom", reason="needs the extra 'convert'")

from nnunet_ssl.conversion.cases import fingerprint  # noqa: E402
from nnunet_ssl.conversion.dicom import read_series  # noqa: E402
from nnunet_ssl.conversion.dicom_masks import read_structures  # noqa: E402
from nnunet_ssl.conversion.folder import plan_folder  # noqa: E402
from nnunet_ssl.conversion.folder_options import FolderOptions  # noqa: E402
from nnunet_ssl.conversion.folder_scan import only_series  # noqa: E402
from nnunet_ssl.conversion.recipes import plan_recipe  # noqa: E402
from nnunet_ssl.conversion.writer import write_dataset  # noqa: E402
from nnunet_ssl.errors import ConfigError, DataError  # noqa: E402
from tests.unit.convert_files import NAME, blob, files, read, splits, write  # noqa: E402
from tests.unit.dicom_files import (
    ORIGIN,
    SPACING,
    rectangle,
    write_segmentation,
    write_series,
    write_structures,
)  # noqa: E402

SHAPE = (5, 8, 6)


def ct(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(-900, 900, shape)


def planned(folder, **options):
    return plan_folder(folder, NAME, FolderOptions(**options))


@pytest.mark.parametrize("flip", [False, True])
def test_series_in_hounsfield_units_and_in_its_place(tmp_path, flip):
    write_series(tmp_path / "s", ct(), flip_numbers=flip)
    image = read_series(only_series(tmp_path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ct())
    assert image.GetPixelID() == sitk.sitkInt16
    np.testing.assert_allclose(image.GetSpacing(), SPACING)
    np.testing.assert_allclose(image.GetOrigin(), ORIGIN)


def test_missing_slice_and_doubled_slices_are_refused(tmp_path):
    write_series(tmp_path / "gap", ct(), positions=[0, 3, 6, 12, 15])
    with pytest.raises(DataError, match=r"slices are 3 mm apart, but 6 mm .*slices are missing"):
        read_series(only_series(tmp_path / "gap"))
    write_series(tmp_path / "phases", ct(), positions=[0, 0, 3, 3, 6])
    with pytest.raises(DataError, match="several volumes"):
        read_series(only_series(tmp_path / "phases"))


def altered(folder, slices, change):
    """Write slices once more, each after ``change(number, slice)``."""
    for k, slice_ in enumerate(slices):
        change(k, slice_)
        slice_.save_as(folder / f"1-{k + 1:03d}.dcm", enforce_file_format=True)


@pytest.mark.parametrize("last", [10, 0.3], ids=["tilted gantry", "a third of a millimetre"])
def test_slices_shifted_sideways_are_refused(tmp_path, last):
    def shift(k, slice_):
        slice_.ImagePositionPatient = [ORIGIN[0], ORIGIN[1] + k * last / 4, ORIGIN[2] + 3 * k]

    altered(tmp_path, write_series(tmp_path, ct()), shift)
    with pytest.raises(DataError, match=rf"shifted sideways, by up to {last} mm, as under a tilted gantry"):
        read_series(only_series(tmp_path))


def test_slices_with_rounded_positions_are_taken(tmp_path):
    def shift(k, slice_):
        slice_.ImagePositionPatient = [ORIGIN[0] + 0.02 * (k % 2), ORIGIN[1], ORIGIN[2] + 3 * k]
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 0.99999, 0.0001 * (k % 2)]

    altered(tmp_path, write_series(tmp_path, ct()), shift)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_series(only_series(tmp_path))), ct())


def test_slices_turned_against_each_other_are_refused(tmp_path):
    def turn(k, slice_):
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0] if k < 3 else [1, 0, 0, 0, 0, -1]

    altered(tmp_path, write_series(tmp_path, ct()), turn)
    with pytest.raises(DataError, match="turned against each other"):
        read_series(only_series(tmp_path))


def test_several_frames_in_one_file_are_refused(tmp_path):
    def double(k, slice_):
        slice_.NumberOfFrames, slice_.PixelData = 2, slice_.PixelData * 2

    altered(tmp_path, write_series(tmp_path, ct()[:1]), double)
    with pytest.raises(DataError, match=r"1-001\.dcm holds 2 frames: expected a file for each slice"):
        read_series(only_series(tmp_path))


def test_each_slice_has_its_own_scale(tmp_path):
    """As PET has it: the first slice's may be a whole number by chance."""

    def scale(k, slice_):
        slice_.RescaleSlope, slice_.RescaleIntercept = 1 + 0.37 * k, 0

    altered(tmp_path, write_series(tmp_path, ct(), modality="PT"), scale)
    image = read_series(only_series(tmp_path))
    expected = (ct() + 1024) * (1 + 0.37 * np.arange(5))[:, None, None]
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), expected, rtol=1e-6)


def test_series_spread_over_directories_is_one(tmp_path):
    """As discs have it; the name is that of the folder around."""
    write_series(tmp_path / "in" / "p1", ct())
    for k, path in enumerate(sorted((tmp_path / "in" / "p1").iterdir())):
        target = tmp_path / "in" / "p1" / f"DIR{k // 3:03d}"
        target.mkdir(exist_ok=True)
        path.rename(target / path.name)
    (case,) = planned(tmp_path / "in").plan.cases
    assert case.identifier == "p1"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(case.images[0]()), ct())


def test_fingerprint_of_a_series_is_that_of_its_slices(tmp_path):
    """Its folder changes with every other file in it, so a second ``--into`` refused it."""

    def prints():
        return [fingerprint(case, {}) for case in planned(tmp_path).plan.cases]

    write_series(tmp_path, ct(), series="1.2.3")
    before = prints()
    (tmp_path / ".DS_Store").touch()
    write_series(tmp_path, ct(1), series="1.2.4", prefix="other-")
    os.utime(tmp_path, ns=(1, 1))
    assert prints()[:1] == before
    os.utime(tmp_path / "1-003.dcm", ns=(1, 1))
    assert prints()[:1] != before


def test_series_stored_twice_is_refused(tmp_path):
    write_series(tmp_path / "in" / "p1" / "a", ct(), series="1.2.3")
    write_series(tmp_path / "in" / "p1" / "b", ct(), series="1.2.3")
    (case,) = planned(tmp_path / "in").plan.cases
    with pytest.raises(
        DataError, match=r"10 slices lie at 5 places, a/1-001\.dcm where b/1-001\.dcm is: .*copies"
    ):
        case.images[0]()


def test_no_series_or_several(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found 0"):
        only_series(tmp_path / "empty")
    for name in "ab":
        write_series(tmp_path / "two" / name, ct())
    with pytest.raises(DataError, match="found 2"):
        only_series(tmp_path / "two")


def test_folder_of_series(tmp_path, raw):
    folder = tmp_path / "in"
    for n in (1, 2):
        write_series(folder / f"patient{n}" / "CT", ct(n))
    image = read_series(only_series(folder / "patient1"))
    label = sitk.GetImageFromArray(blob(shape=SHAPE))
    label.CopyInformation(image)
    sitk.WriteImage(sitk.DICOMOrient(label, "RAS"), str(folder / "patient1" / "seg.nii.gz"))
    plan = planned(folder)
    assert plan.plan.channels == ("CT",)
    assert {c.identifier: c.subset for c in plan.plan.cases} == {"patient1": "train", "patient2": "unlabeled"}
    write_dataset(plan.plan)
    np.testing.assert_array_equal(read(raw / NAME / "imagesTr/patient1_0000.nii.gz"), ct(1))
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/patient1.nii.gz"), blob(shape=SHAPE))


def test_files_without_ending_are_known_by_their_content(tmp_path):
    write_series(tmp_path / "in", ct())
    for path in (tmp_path / "in").iterdir():
        path.rename(path.with_name(path.stem.replace("-", "")))
    (tmp_path / "in" / "README").write_text("no DICOM")
    (tmp_path / "in" / "gone").symlink_to(tmp_path / "nowhere")
    (case,) = planned(tmp_path / "in").plan.cases
    assert case.images[0].func is read_series


def test_what_else_an_export_holds_is_no_scan(tmp_path):
    """Overviews to plan slices by (in a scan's own series, too), reports, and copies of the screen."""
    write_series(tmp_path / "in" / "p1" / "ct", ct(), series="1.2.3")

    def plan_by(k, slice_):
        slice_.ImageType, slice_.ImageOrientationPatient = ["ORIGINAL", "LOCALIZER"], [1, 0, 0, 0, 0, -1]

    scouts = write_series(tmp_path / "in" / "p1" / "scout", ct()[:2], series="1.2.3")
    altered(tmp_path / "in" / "p1" / "scout", scouts, plan_by)

    def screen(k, slice_):
        slice_.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del slice_.ImagePositionPatient, slice_.ImageOrientationPatient

    altered(tmp_path / "in" / "dose", write_series(tmp_path / "in" / "dose", ct()[:1]), screen)
    (report,) = write_series(tmp_path / "in" / "p1" / "report", ct()[:1], modality="SR")
    del report.Rows, report.Columns, report.PixelData
    report.save_as(tmp_path / "in" / "p1" / "report" / "1-001.dcm", enforce_file_format=True)
    found = planned(tmp_path / "in")
    (case,) = found.plan.cases
    assert any("neither scans nor masks: 4 file(s)" in note for note in found.notes)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(case.images[0]()), ct())


def test_several_modalities_are_not_mixed(tmp_path):
    write_series(tmp_path / "in" / "ct", ct())
    write_series(tmp_path / "in" / "pet", ct(), modality="PT")
    with pytest.raises(DataError, match=r"CT \(1\), PT \(1\). Choose one with --modality"):
        planned(tmp_path / "in")
    found = planned(tmp_path / "in", modality="pt")
    assert [case.identifier for case in found.plan.cases] == ["pet"] and found.plan.channels == ("PT",)


def test_a_modality_leaves_other_files_alone(tmp_path):
    write_series(tmp_path / "in" / "ct", ct())
    write_series(tmp_path / "in" / "pet", ct(), modality="PT")
    write(tmp_path / "in" / "p9.nii.gz", ct().astype(np.int16))
    found = planned(tmp_path / "in", modality="pt")
    assert sorted(case.identifier for case in found.plan.cases) == ["p9", "pet"]


def structures(folder, flip=False):
    slices = write_series(folder / "patient1" / "ct", ct(), flip_numbers=flip)
    outer, hole = rectangle(1, 1, 5, 4), rectangle(2, 2, 2, 2)
    write_structures(
        folder / "patient1" / "rt" / "structures.dcm",
        slices,
        {
            "Liver": [(1, outer), (1, hole), (2, outer)],
            "Tumour": [(2, hole)],
            "BODY": [(0, rectangle(0, 0, 8, 6))],
        },
    )
    expected = np.zeros(SHAPE, np.uint8)
    expected[1:3, 1:6, 1:5] = 1
    expected[1, 2:4, 2:4] = 0  # a contour within a contour is a hole
    expected[2, 2:4, 2:4] = 2
    return expected


@pytest.mark.parametrize("flip", [False, True])
def test_structures_become_labels(tmp_path, raw, flip):
    expected = structures(tmp_path / "in", flip)
    plan = planned(tmp_path / "in", labels=("liver", "Tumour"))
    assert plan.plan.labels == {"background": 0, "liver": 1, "Tumour": 2}
    assert any("Structures not taken: BODY" in note for note in plan.notes)
    write_dataset(plan.plan)
    (label,) = (raw / NAME / "labelsTr").iterdir()
    np.testing.assert_array_equal(read(label), expected)
    assert sitk.ReadImage(str(label)).GetOrigin() == pytest.approx(ORIGIN)


def test_all_structures_unless_some_are_named(tmp_path):
    structures(tmp_path / "in")
    assert planned(tmp_path / "in").plan.labels == {"background": 0, "BODY": 1, "Liver": 2, "Tumour": 3}
    with pytest.raises(DataError, match="no file holds Spleen. Found: BODY, Liver, Tumour"):
        planned(tmp_path / "in", labels=("Spleen",))


def patients(folder, *structures):
    """Patients p1, p2, ... with an outline of each structure named, one slice above the other."""
    for n, names in enumerate(structures, start=1):
        slices = write_series(folder / f"p{n}" / "ct", ct(n))
        drawn = {
            name: [(k, rectangle(1, 1, 3, 3))] if name != "drawn nowhere" else []
            for k, name in enumerate(names)
        }
        write_structures(folder / f"p{n}" / "rt" / "rt.dcm", slices, drawn)
    return folder


def test_structure_that_a_patient_lacks_is_no_background(tmp_path, raw):
    folder = patients(
        tmp_path / "in", ("Liver", "Tumour"), ("Leber", "Tumour"), ("liver_old", "drawn nowhere")
    )
    wanted = {"labels": ("Liver", "Tumour")}
    with pytest.raises(DataError) as refused:
        planned(folder, **wanted)
    assert "missing in 2 of 3 cases" in str(refused.value)
    assert "p2 has no Liver (it has Leber, Tumour), p3 has no Liver, Tumour (it has liver_old)" in str(
        refused.value
    )
    with pytest.raises(DataError, match="p1 has no Leber, liver_old"):
        planned(folder)  # all structures, but no patient has them all
    left_out = planned(folder, **wanted, skip_orphans=True)
    assert any("missing in 2 of 3 cases" in note and "left out" in note for note in left_out.notes)
    write_dataset(left_out.plan, skip_errors=True)
    assert files(raw / NAME / "labelsTr") == ["p1.nii.gz"]


def test_structures_may_be_missing_where_the_user_says_so(tmp_path, raw):
    folder = patients(tmp_path / "in", ("Liver", "Tumour"), ("Liver",))
    plan = planned(folder, labels=("Liver", "Tumour"), allow_missing=True)
    assert any(
        "p2 has no Tumour (it has Liver). They are taken to be without." in note for note in plan.notes
    )
    write_dataset(plan.plan)
    assert set(read(raw / NAME / "labelsTr/p1.nii.gz").ravel()) == {0, 1, 2}
    assert set(read(raw / NAME / "labelsTr/p2.nii.gz").ravel()) == {0, 1}


def test_masks_without_any_closed_contour_are_refused(tmp_path):
    slices = write_series(tmp_path / "in" / "p1" / "ct", ct())
    drawn = {"Liver": [(1, rectangle(1, 1, 3, 3))]}
    write_structures(tmp_path / "in" / "p1" / "rt.dcm", slices, drawn, "OPEN_PLANAR")
    with pytest.raises(DataError, match=r"No structure is outlined in the masks of p1\."):
        planned(tmp_path / "in")


def test_structure_smaller_than_a_voxel_is_refused(tmp_path):
    slices = write_series(tmp_path / "ct", ct())
    point = [(ORIGIN[0] + 0.1, ORIGIN[1] + 0.1)] * 3
    file = write_structures(
        tmp_path / "rt.dcm", slices, {"Liver": [(1, point)], "Lung": [(1, rectangle(1, 1, 3, 3))]}
    )
    read = ("rtstruct", (file,), only_series(tmp_path / "ct"), ("liver",))
    with pytest.raises(DataError, match=r"liver covers no voxel of the scan.*found Liver, Lung\."):
        read_structures(*read)
    assert not sitk.GetArrayFromImage(read_structures(*read, allow_missing=True)).any()


def test_upper_and_lower_case_and_blanks_make_no_other_structure(tmp_path, raw):
    folder = patients(tmp_path / "in", ("Liver",), ("LIVER ",))
    plan = planned(folder).plan
    assert plan.labels == {"background": 0, "LIVER": 1}
    write_dataset(plan)
    for case in ("p1", "p2"):
        assert set(read(raw / NAME / f"labelsTr/{case}.nii.gz").ravel()) == {0, 1}
    with pytest.raises(ConfigError, match="names a structure twice"):
        planned(folder, labels=("Liver", "liver"))


def test_structures_not_asked_for_do_no_harm(tmp_path, raw):
    """A treatment couch reaches beyond the scan."""
    slices = write_series(tmp_path / "in" / "p1" / "ct", ct())
    couch = [(1.5, rectangle(0, 0, 2, 2)), (9, rectangle(0, 0, 2, 2))]
    drawn = {"Liver": [(1, rectangle(1, 1, 3, 3))], "CouchSurface": couch}
    write_structures(tmp_path / "in" / "p1" / "rt" / "rt.dcm", slices, drawn)
    write_dataset(planned(tmp_path / "in", labels=("Liver",)).plan)
    (label,) = (raw / NAME / "labelsTr").iterdir()
    assert read(label).sum() == 9


def test_contour_without_points_counts_for_nothing(tmp_path):
    slices = write_series(tmp_path / "ct", ct())
    drawn = {"Liver": [(1, rectangle(1, 1, 4, 4)), (2, [])], "Lung": [(1, [])]}
    write_structures(tmp_path / "rt.dcm", slices, drawn)
    (label,) = (case.label for case in planned(tmp_path).plan.cases)
    assert sitk.GetArrayFromImage(label()).sum() == 16


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_contour_stored_twice_counts_once(tmp_path, kind):
    slices = write_series(tmp_path / "ct", ct())
    outline = (1, rectangle(1, 1, 4, 4))
    file = write_structures(tmp_path / "rt.dcm", slices, {"Liver": [outline, outline]}, kind)
    label = read_structures("rtstruct", (file,), only_series(tmp_path / "ct"), ("Liver",))
    assert sitk.GetArrayFromImage(label).sum() == 16


def test_contour_off_the_series_is_refused(tmp_path):
    slices = write_series(tmp_path / "ct", ct())
    file = write_structures(tmp_path / "rt.dcm", slices, {"Liver": [(1.5, rectangle(1, 1, 2, 2))]})
    with pytest.raises(DataError, match="between or outside of the slices"):
        read_structures("rtstruct", (file,), only_series(tmp_path / "ct"), ("Liver",))


def test_structures_of_another_series_are_not_laid_on_the_only_scan(tmp_path):
    write_series(tmp_path / "in" / "p1" / "planning", ct())
    other = write_series(tmp_path / "in" / "p1" / "T1", ct(3), modality="MR")
    write_structures(tmp_path / "in" / "p1" / "rt.dcm", other, {"Liver": [(1, rectangle(1, 1, 3, 3))]})
    missing = rf"rt\.dcm \(series {other[0].SeriesInstanceUID}\)"
    with pytest.raises(
        DataError, match=rf"outline a DICOM series that is not here or was not chosen: .*{missing}"
    ):
        planned(tmp_path / "in", modality="CT")
    (case,) = planned(tmp_path / "in", modality="CT", skip_orphans=True).plan.cases
    assert case.subset == "unlabeled"


def test_segmentation_becomes_a_label(tmp_path, raw):
    expected = np.zeros(SHAPE, np.uint8)
    expected[1, 2:4, 1:5], expected[3, 0, 0] = 1, 2
    slices = write_series(tmp_path / "in" / "ct", ct())
    write_segmentation(
        tmp_path / "in" / "seg" / "seg.dcm", slices, {"Liver": expected == 1, "Tumour": expected == 2}
    )
    plan = planned(tmp_path / "in").plan
    assert plan.labels == {"background": 0, "Liver": 1, "Tumour": 2}
    write_dataset(plan)
    (label,) = (raw / NAME / "labelsTr").iterdir()
    np.testing.assert_array_equal(read(label), expected)


def test_segment_beyond_the_scan_is_refused(tmp_path):
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 2:4, 1:5] = 1
    slices = write_series(tmp_path / "ct", ct())
    moved = write_series(tmp_path / "moved", ct(), positions=[109, 112, 115, 118, 121])
    file = write_segmentation(tmp_path / "seg.dcm", moved, {"Liver": label})
    scan = only_series(tmp_path / "ct")
    with pytest.raises(DataError, match=r"seg\.dcm, Liver: 16 of 24 voxels lie outside of the scan"):
        read_structures("seg", (file,), scan, ("Liver",))
    file = write_segmentation(tmp_path / "seg.dcm", slices, {"Liver": label})
    assert sitk.GetArrayFromImage(read_structures("seg", (file,), scan, ("Liver",))).sum() == 24


@pytest.mark.parametrize("series", ["P1/ct", "P1/CT thorax", "P1"])
def test_mask_files_of_one_label_each(tmp_path, raw, series):
    slices = write_series(tmp_path / "in" / series, ct())
    for name, place in (("liver", (1, 2, 3)), ("spleen", (2, 5, 1))):
        path = tmp_path / "in" / "P1" / "segmentations" / f"{name}.nii.gz"
        write(path, blob(shape=SHAPE, at=place), spacing=SPACING, origin=ORIGIN, direction=np.eye(3).ravel())
    wanted = {"mask_per_label": True, "labels": ("spleen", "liver")}
    write_dataset(planned(tmp_path / "in", **wanted).plan)
    (label,) = (raw / NAME / "labelsTr").iterdir()
    expected = 2 * blob(shape=SHAPE)
    expected[2, 5, 1] = 1
    np.testing.assert_array_equal(read(label), expected)
    write_structures(tmp_path / "in" / "rt.dcm", slices, {"Liver": [(1, rectangle(1, 1, 3, 3))]})
    with pytest.raises(DataError, match=r"Masks are of several kinds \(one file per label, rtstruct\)"):
        planned(tmp_path / "in", **wanted)
    assert planned(tmp_path / "in", **wanted, masks="*/segmentations/*").plan.counts() == {"train": 1}


# NIH Pancreas-CT
# ------------------------------------------------------------------------------------------------


def pancreas(folder, number, flip=False, tissue=80):
    """A patient as TCIA has it: label voxels by column, row, InstanceNumber, under a wrong header."""
    label = blob(shape=SHAPE)
    scan = np.where(label > 0, tissue, -900)
    patient = folder / "manifest-1" / "Pancreas-CT" / f"PANCREAS_{number:04d}" / "11-24-2015-study" / "series"
    write_series(patient, scan, flip_numbers=flip)
    by_instance = label[::-1] if flip else label
    path = folder / "TCIA_pancreas_labels-02-05-2017" / f"label{number:04d}.nii.gz"
    path.parent.mkdir(exist_ok=True)
    header = np.diag([SPACING[0], SPACING[1], SPACING[2], 1.0])  # as if rows ran to the front
    nibabel.save(nibabel.Nifti1Image(by_instance.transpose(2, 1, 0), header), path)
    return scan, label


@pytest.mark.parametrize("flip", [False, True], ids=["numbered upwards", "numbered downwards"])
def test_pancreas_label_lies_on_the_organ(tmp_path, raw, flip):
    scan, label = pancreas(tmp_path / "in", 1, flip)
    write_dataset(plan_recipe("pancreas_nih", tmp_path / "in", NAME))
    image = sitk.ReadImage(str(raw / NAME / "imagesTr/pancreas_0001_0000.nii.gz"))
    laid = sitk.ReadImage(str(raw / NAME / "labelsTr/pancreas_0001.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(laid), label)
    assert (sitk.GetArrayFromImage(image)[sitk.GetArrayFromImage(laid) > 0] == 80).all()
    for one in (image, laid):
        np.testing.assert_allclose(one.GetSpacing(), SPACING)
        np.testing.assert_allclose(one.GetOrigin(), ORIGIN)
        np.testing.assert_allclose(one.GetDirection(), np.eye(3).ravel())


def test_pancreas_label_off_the_organ_is_refused(tmp_path, raw):
    pancreas(tmp_path / "in", 1, tissue=-800)
    with pytest.raises(DataError, match="only 0% of the labelled voxels have the density of soft tissue"):
        write_dataset(plan_recipe("pancreas_nih", tmp_path / "in", NAME))


def test_pancreas_split_and_withdrawn_patients(tmp_path, raw):
    for number in (1, 2, 7, 20, 21, 22, 23, 24, 25, 26, 27, 28, 64, 70, 82):
        pancreas(tmp_path / "in", number)
    plan = plan_recipe("pancreas_nih", tmp_path / "in", NAME)
    assert plan.counts() == {"train": 11, "test": 2}
    assert {c.identifier for c in plan.cases if c.subset == "test"} == {"pancreas_0064", "pancreas_0082"}
    write_dataset(plan)
    made = splits(raw / NAME)
    assert sorted(made) == ["versemi-12", "versemi-6"]
    (one,) = made["versemi-6"]
    assert one["train"] == ["pancreas_0001", "pancreas_0002"]
    assert len(one["val"]) == 6 and one["models_chosen_on_test"] and one["missing_cases"] == 4
    assert plan_recipe("pancreas_nih", tmp_path / "in", NAME, "all").counts() == {"train": 13}


def test_pancreas_incomplete(tmp_path, raw):
    pancreas(tmp_path / "in", 1)
    write_series(tmp_path / "in" / "PANCREAS_0002" / "s", ct())
    with pytest.raises(DataError, match=r"PANCREAS_0002 has no label0002\.nii\.gz"):
        plan_recipe("pancreas_nih", tmp_path / "in", NAME)
    write(tmp_path / "in" / "labels" / "label0002.nii.gz", blob())
    with pytest.raises(DataError, match="has the shape"):
        write_dataset(plan_recipe("pancreas_nih", tmp_path / "in", NAME))
    assert files(raw / f".{NAME}.building" / "imagesTr")  # what worked is kept
