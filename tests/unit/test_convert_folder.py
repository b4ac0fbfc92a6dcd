"""``convert folder``: names of masks, values, formats, and folders in every shape."""

import json
from argparse import ArgumentParser

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from skimage import io

from nnunet_ssl.commands import convert as command
from nnunet_ssl.conversion import convert_case, into
from nnunet_ssl.conversion.cases import Case, files_of
from nnunet_ssl.conversion.folder import plan_folder
from nnunet_ssl.conversion.folder_options import FolderOptions
from nnunet_ssl.conversion.folder_scan import items_in
from nnunet_ssl.conversion.images import read_label_picture
from nnunet_ssl.errors import ConfigError, DataError
from tests.unit.convert_files import NAME, blob, files, gray, itk, picture, read, scan, write


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def planned(folder, **options):
    return plan_folder(folder, NAME, FolderOptions(**options))


def found(folder, **options):
    """Identifier -> subset and names of the masks."""
    return {
        case.identifier: (case.subset, [path.name for path in files_of(case.label)])
        for case in planned(folder, **options).plan.cases
    }


def run(*arguments):
    parser = ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([*map(str, arguments), "-np", "1"]))


@pytest.fixture
def dataset(folder, raw):
    """One labelled case."""
    write(folder / "p1.nii.gz", scan())
    write(folder / "p1_seg.nii.gz", blob())
    run("folder", "-i", folder, "-o", NAME)
    return raw / NAME


SUFFIXES = [
    "_mask",
    "_seg",
    "-label",
    ".gt",
    "_segmentation",
    "_ground_truth",
    " annotation",
    "_ROI",
    "_MASK",
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_masks_beside_scans(folder, suffix):
    write(folder / "p1.nii.gz", scan())
    write(folder / "p2.nii.gz", scan())
    write(folder / f"p1{suffix}.nii.gz", blob())
    assert found(folder) == {"p1": ("train", [f"p1{suffix}.nii.gz"]), "p2": ("unlabeled", [])}


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("imagesTr", "labelsTr"),
        ("img", "gt"),
        ("", "segmentations"),
        ("scans", "annotations"),
    ],
)
def test_masks_in_a_folder_of_their_own(folder, images, masks):
    write(folder / images / "p1.nii.gz", scan())
    write(folder / images / "p2.nii.gz", scan())
    write(folder / masks / "p1.nii.gz", blob())
    assert found(folder) == {"p1": ("train", ["p1.nii.gz"]), "p2": ("unlabeled", [])}


def test_numbers_shared_by_scan_and_label(folder):
    for n in ("0001", "0002"):
        write(folder / "img" / f"img{n}.nii.gz", scan())
    write(folder / "label" / "label0002.nii.gz", blob())
    assert found(folder) == {"img0001": ("unlabeled", []), "img0002": ("train", ["label0002.nii.gz"])}


def test_one_folder_for_each_case(folder):
    for n in (1, 2, 3):
        write(folder / f"patient{n}" / "image.nii.gz", scan())
    write(folder / "patient1" / "mask.nii.gz", blob())
    write(folder / "patient3" / "tumour_seg.nii.gz", blob())
    assert found(folder) == {
        "patient1": ("train", ["mask.nii.gz"]),
        "patient2": ("unlabeled", []),
        "patient3": ("train", ["tumour_seg.nii.gz"]),
    }


def test_same_names_in_several_folders_get_longer_names(folder):
    for site in ("a", "b"):
        write(folder / site / "images" / "p1.nii.gz", scan())
        write(folder / site / "masks" / "p1.nii.gz", blob())
    assert found(folder) == {f"{site}_p1": ("train", ["p1.nii.gz"]) for site in "ab"}


def test_links_that_lead_back_are_not_followed(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "b.nii.gz", scan())
    write(folder / "site" / "a.nii.gz", scan())
    (folder / "site" / "again").symlink_to(folder, target_is_directory=True)
    (folder / "site" / "more").symlink_to(elsewhere, target_is_directory=True)
    items, unknown = items_in(folder)
    assert [item.path.name for item in items] == ["a.nii.gz", "b.nii.gz"] and not unknown


def test_patterns_where_names_tell_nothing(folder):
    for n in "xy":
        write(folder / n / "lgemri.nrrd", scan())
        write(folder / n / "laendo.nrrd", blob(255))
    assert found(folder, images="*/lgemri.nrrd", masks="*/laendo.nrrd") == {
        f"{n}_lgemri": ("train", ["laendo.nrrd"]) for n in "xy"
    }
    with pytest.raises(DataError, match="no file in"):
        planned(folder, masks="*/none.nrrd")


def test_folder_of_masks_elsewhere(folder, tmp_path):
    write(folder / "p1.nii.gz", scan())
    write(tmp_path / "elsewhere" / "p1.nii.gz", blob())
    assert found(folder, masks=str(tmp_path / "elsewhere")) == {"p1": ("train", ["p1.nii.gz"])}


def test_channels_and_nnunet_folders(folder):
    for name in ("imagesTr/a", "imagesTs/t", "imagesUn/u"):
        for channel in (0, 1):
            write(folder / f"{name}_{channel:04d}.nii.gz", scan(channel))
    write(folder / "labelsTr" / "a.nii.gz", blob())
    assert {i: s for i, (s, _) in found(folder).items()} == {"a": "train", "t": "test", "u": "unlabeled"}
    assert planned(folder).plan.channels == ("channel0", "channel1")
    assert planned(folder, channels=("T1", "T2")).plan.channels == ("T1", "T2")
    with pytest.raises(DataError, match="expected 2 name"):
        planned(folder, channels=("T1",))


def test_year_in_a_name_is_no_channel(folder):
    for year in (2019, 2020):
        write(folder / f"scan_{year}.nii.gz", scan())
    assert sorted(found(folder)) == ["scan_2019", "scan_2020"]


@pytest.mark.parametrize(
    "numbers",
    [range(1, 13), range(1, 4), (0, 2, 3), range(12)],
    ids=["from 1, more than 9", "from 1", "with a gap", "from 0, more than 9"],
)
def test_running_numbers_are_no_channels(folder, numbers):
    names = [f"amos_{n:04d}" for n in numbers]
    for name in names:
        write(folder / "imagesTr" / f"{name}.nii.gz", scan())
    for name in names[:2]:
        write(folder / "labelsTr" / f"{name}.nii.gz", blob())
    expected = {name: ("unlabeled", []) for name in names}
    assert found(folder) == expected | {name: ("train", [f"{name}.nii.gz"]) for name in names[:2]}


def test_numbers_that_may_be_of_scans_or_of_channels_are_told(folder):
    for n in range(3):
        write(folder / "imagesTr" / f"us_{n:04d}.nii.gz", scan(n))
        write(folder / "labelsTr" / f"us_{n:04d}.nii.gz", blob())
    with pytest.raises(DataError, match=r"numbers are those of scans, .*, give us_0000\.nii\.gz another"):
        planned(folder)
    for place in ("imagesTr", "labelsTr"):
        (folder / place / "us_0000.nii.gz").rename(folder / place / "us_0009.nii.gz")
    assert sorted(found(folder)) == ["us_0001", "us_0002", "us_0009"]


def test_channels_that_do_not_count_from_zero_are_told(folder):
    for n in (1, 2):
        write(folder / f"a_{n:04d}.nii.gz", scan(n))
    write(folder / "a_seg.nii.gz", blob())
    with pytest.raises(DataError, match=r"Channels of a scan count from _0000 without a gap\."):
        planned(folder)


def test_into_takes_running_numbers_for_scans(dataset, tmp_path):
    for n in range(1, 6):
        write(tmp_path / "more" / f"scan_{n:04d}.nii.gz", scan(n))
    run("folder", "-i", tmp_path / "more", "--into", NAME)
    assert len(files(dataset / "imagesUn")) == 5


def test_one_file_name_in_two_folders_is_no_second_channel(folder):
    for place in ("imagesTr", "imagesTs"):
        write(folder / place / "a_0000.nii.gz", scan())
    with pytest.raises(DataError, match="Several scans are called a_0000"):
        planned(folder)
    (folder / "imagesTs" / "a_0000.nii.gz").rename(folder / "imagesTr" / "a.nii.gz")
    with pytest.raises(DataError, match="Several scans are called a_0000"):
        planned(folder)


def test_mask_without_scan(folder):
    write(folder / "p1.nii.gz", scan())
    write(folder / "p1_seg.nii.gz", blob())
    write(folder / "p9_seg.nii.gz", blob())
    with pytest.raises(DataError, match=r"1 mask\(s\) fit no scan: .*p9_seg"):
        planned(folder)
    assert found(folder, skip_orphans=True) == {"p1": ("train", ["p1_seg.nii.gz"])}


def test_mask_of_another_patient_with_the_same_file_name(folder):
    write(folder / "P1" / "thorax.nii.gz", scan())
    write(folder / "P2" / "masks" / "thorax.nii.gz", blob())  # its scan is missing
    with pytest.raises(DataError, match=r"1 mask\(s\) fit no scan: .*P2/masks/thorax"):
        planned(folder)
    write(folder / "P2" / "thorax.nii.gz", scan())
    assert found(folder) == {"P1_thorax": ("unlabeled", []), "P2_thorax": ("train", ["thorax.nii.gz"])}


@pytest.mark.parametrize(
    ("image", "mask", "masks"),
    [
        ("site/p1", "masks/p1", None),
        ("p1", "expert/p1_seg", None),
        ("scans/P1", "masks/P1/mask", None),
        ("T2/P1/a", "outlines/P1/a_seg", None),
        ("T2/a", "outlines/a", "outlines"),
    ],
)
def test_trees_of_masks_and_scans(folder, image, mask, masks):
    write(folder / f"{image}.nii.gz", scan())
    write(folder / f"{mask}.nii.gz", blob())
    assert [subset for subset, _ in found(folder, masks=masks).values()] == ["train"]


@pytest.mark.parametrize(
    ("images", "masks", "options"),
    [
        ("t2w", "outlines", {"images": "t2w/*", "masks": "outlines/*"}),
        ("images/centre", "masks/reader", {}),
        ("T1w", "derivatives/manual", {}),
        ("site/T2", "site/drawn", {}),
    ],
)
def test_folders_that_all_masks_or_scans_lie_in_name_no_patient(folder, images, masks, options):
    for name in "pq":
        write(folder / images / f"{name}.nii.gz", scan())
        write(folder / masks / f"{name}{'' if options else '_seg'}.nii.gz", blob())
    assert [subset for subset, _ in found(folder, **options).values()] == ["train", "train"]


def test_a_folder_of_all_patients_does_not_join_their_masks(folder):
    write(folder / "P1" / "study" / "thorax.nii.gz", scan())
    write(folder / "P2" / "study" / "masks" / "thorax.nii.gz", blob())  # its scan is missing
    write(folder / "P3" / "study" / "abdomen.nii.gz", scan())
    with pytest.raises(DataError, match=r"1 mask\(s\) fit no scan: .*P2/study/masks/thorax"):
        planned(folder)


def test_several_masks_of_one_scan(folder):
    write(folder / "p1.nii.gz", scan())
    for name in ("p1_mask", "p1_mask_1", "p1_mask_2"):
        write(folder / f"{name}.nii.gz", blob(at=(2, 2, int(name[-1]) if name[-1].isdigit() else 0)))
    assert found(folder) == {"p1": ("train", ["p1_mask.nii.gz", "p1_mask_1.nii.gz", "p1_mask_2.nii.gz"])}
    write(folder / "p1_gt.nii.gz", blob())
    with pytest.raises(DataError, match="several masks"):
        planned(folder)


def test_union_of_parts_is_written(folder, raw):
    write(folder / "p1.nii.gz", scan())
    write(folder / "p1_mask.nii.gz", blob(255))
    write(folder / "p1_mask_1.nii.gz", blob(1, at=(3, 5, 4)))
    write(folder / "p2.nii.gz", scan())
    write(folder / "p2_mask.nii.gz", blob(255))  # one mask beside several: the same meaning
    run("folder", "-i", folder, "-o", NAME)
    expected = blob()
    expected[3, 5, 4] = 1
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/p1.nii.gz"), expected)
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/p2.nii.gz"), blob())


def test_values_are_named_and_made_consecutive(folder, raw):
    write(folder / "p1.nii.gz", scan())
    write(folder / "p2.nii.gz", scan())
    write(folder / "p1_seg.nii.gz", blob(2))
    write(folder / "p2_seg.nii.gz", blob(5))
    plan = planned(folder).plan
    assert plan.labels == {"background": 0, "label_2": 1, "label_5": 2}
    assert planned(folder, labels=("liver", "tumour")).plan.values == {0: 0, 2: 1, 5: 2}
    assert planned(folder, labels=("tumour=5", "liver=2")).plan.values == {0: 0, 5: 1, 2: 2}
    assert planned(folder, labels=("background=0", "liver=2", "tumour")).plan.values == {0: 0, 2: 1, 5: 2}
    run("folder", "-i", folder, "-o", NAME, "--labels", "tumour=5", "liver=2")
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/p1.nii.gz"), blob(2))
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/p2.nii.gz"), blob(1))
    assert json.loads((raw / NAME / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "tumour": 1,
        "liver": 2,
    }


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (("liver",), DataError, "5 has no name"),
        (("a", "b", "c"), DataError, "c has no value"),
        (("a=1", "b", "c"), DataError, None),
        (("a", "a"), ConfigError, "twice"),
        (("a=x",), ConfigError, "whole number"),
    ],
)
def test_wrong_names(folder, labels, error, message):
    write(folder / "p1.nii.gz", scan())
    write(folder / "p1_seg.nii.gz", np.where(np.arange(5) == 4, 5, blob(2)).astype(np.uint8))
    if message is None:  # a value that no mask holds may be named: another folder may hold it
        assert planned(folder, labels=labels).plan.labels == {"background": 0, "a": 1, "b": 2, "c": 3}
        return
    with pytest.raises(error, match=message):
        planned(folder, labels=labels)


def test_scan_taken_for_a_mask(folder):
    write(folder / "p1.nii.gz", scan())
    write(folder / "p1_seg.nii.gz", scan(1))
    with pytest.raises(DataError, match="no label map"):
        planned(folder)
    write(folder / "p1_seg.nii.gz", np.abs(scan(1)))
    with pytest.raises(DataError, match="different values"):
        planned(folder)


def test_ct_is_recognised_by_its_values(folder):
    write(folder / "p1.nii.gz", scan() - 1000)
    write(folder / "p1_seg.nii.gz", blob())
    assert planned(folder).plan.channels == ("CT",)
    assert any("go down to -1" in note for note in planned(folder).notes)
    assert planned(folder, channels=("MRI",)).plan.channels == ("MRI",)
    (folder / "p0.nii.gz").write_bytes(b"broken")  # the next scan tells
    assert planned(folder).plan.channels == ("CT",)
    for name in ("p0", "p1"):
        write(folder / f"{name}.nii.gz", scan())
    assert planned(folder).plan.channels == ("image",)


def test_formats(folder):
    for ending in (".nrrd", ".mha"):
        write(folder / ending[1:] / f"p1{ending}", scan())
        write(folder / ending[1:] / f"p1_seg{ending}", blob())
        assert planned(folder / ending[1:]).plan.file_ending == ending
    assert planned(folder).plan.file_ending == ".nii.gz"  # two formats: one that fits both


def test_dry_run_writes_nothing_and_shows_all(folder, raw, capsys):
    write(folder / "p1.nii.gz", scan())
    write(folder / "p1_seg.nii.gz", blob())
    write(folder / "p2.nrrd", scan())
    (folder / "notes.docx").touch()
    run("folder", "-i", folder, "-o", NAME, "--dry-run")
    out = capsys.readouterr().out
    assert not list(raw.iterdir())
    assert [line.split() for line in out.splitlines() if line.startswith("p")] == [
        ["p1", "imagesTr", "p1.nii.gz", "p1_seg.nii.gz", "link"],
        ["p2", "imagesUn", "p2.nrrd", "-", "convert"],
    ]
    assert "Left out, neither scans nor masks: 1 file(s), notes.docx." in out


def test_pictures(folder, raw):
    for name in "ab":
        picture(folder / "images" / f"{name}.jpg", gray(ord(name)))
    mask = np.zeros((6, 9), np.uint8)
    mask[1:3, 4:8] = 255
    picture(folder / "masks" / "a.png", mask)
    run("folder", "-i", folder, "-o", NAME)
    dataset = raw / NAME
    assert files(dataset)[2:] == ["imagesTr/a_0000.png", "imagesUn/b_0000.png", "labelsTr/a.png"]
    np.testing.assert_array_equal(read(dataset / "labelsTr/a.png"), mask // 255)


def test_masks_as_jpeg_are_cut_at_half(folder, raw):
    picture(folder / "images" / "a.png", gray(shape=(16, 16)))
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 255
    picture(folder / "masks" / "a.jpg", mask)
    assert len(np.unique(read(folder / "masks" / "a.jpg"))) > 2  # blurred, as JPEG does
    run("folder", "-i", folder, "-o", NAME)
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/a.png"), mask // 255)


@pytest.mark.parametrize("peak", [(255, 255, 255), (255, 0, 0), (1, 1, 1)])
def test_masks_as_jpeg_of_any_brightness(folder, raw, peak):
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 1
    (folder / "masks").mkdir()
    for name, value in (("a", peak), ("b", 0)):
        picture(folder / "images" / f"{name}.jpg", gray(shape=(16, 16)))
        colours = Image.fromarray(mask[..., None] * np.array(peak, np.uint8) * bool(value))
        colours.save(folder / "masks" / f"{name}.jpg", quality=100, subsampling=0)
    assert "1 mask(s) are blank: b.jpg." in planned(folder).notes
    run("folder", "-i", folder, "-o", NAME)
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/a.png"), mask)
    assert not read(raw / NAME / "labelsTr/b.png").any()


def palette_mask(path, numbers, colours):
    path.parent.mkdir(exist_ok=True)
    image = Image.new("P", numbers.shape[::-1])
    image.putdata(numbers.ravel().tolist())
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(path)


VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]


def test_numbers_of_a_palette_are_the_labels(folder, raw):
    numbers = np.arange(54, dtype=np.uint8).reshape(6, 9) % 5
    picture(folder / "images" / "a.png", gray())
    palette_mask(folder / "masks" / "a.png", numbers, VOC)
    run("folder", "-i", folder, "-o", NAME, "--labels", "one", "two", "three", "four")
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/a.png"), numbers)


def test_a_mask_too_large_for_pil_is_read(folder, monkeypatch):
    mask = picture(folder / "a.tif", gray())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_label_picture(mask)), gray())


def test_a_gray_palette_holds_the_values(folder, raw):
    mask = np.eye(6, 9, dtype=np.uint8)
    picture(folder / "images" / "a.png", gray())
    palette_mask(folder / "masks" / "a.png", 1 - mask, [(255,) * 3, (0,) * 3])
    run("folder", "-i", folder, "-o", NAME)
    np.testing.assert_array_equal(read(raw / NAME / "labelsTr/a.png"), mask)


def coloured(*pixels):
    """A black mask with a few pixels in colours."""
    mask = np.zeros((6, 9, 3), np.uint8)
    for i, colour in enumerate(pixels):
        mask[i, 2 * i] = colour
    return mask


def test_colours_of_masks(folder, raw):
    """One colour is a label; nothing tells which labels several are, also one in each file."""
    for name in "ab":
        picture(folder / "images" / f"{name}.png", gray())
    masks = folder / "masks"
    picture(masks / "a.png", coloured((255, 0, 0)))
    picture(masks / "b.png", coloured((255, 0, 0), (255, 0, 0)))
    run("folder", "-i", folder, "-o", NAME)
    assert read(raw / NAME / "labelsTr/b.png").sum() == 2
    for second in (coloured((0, 255, 0)), coloured((0, 255, 0), (255, 0, 0)), np.eye(6, 9, dtype=np.uint8)):
        picture(masks / "b.png", second)
        with pytest.raises(DataError, match=r"pictures with colours, RGB .*\(255, 0, 0\)"):
            planned(folder)


def test_a_coloured_dataset_has_labels_of_one_channel_and_scans_of_three(folder, raw, tmp_path):
    red = np.zeros((6, 9, 3), np.uint8)
    red[..., 0] = 200
    picture(folder / "a.png", red)
    mask = np.eye(6, 9, dtype=np.uint8)
    picture(folder / "a_mask.png", np.stack([mask] * 3, axis=-1))
    run("folder", "-i", folder, "-o", NAME)
    np.testing.assert_array_equal(io.imread(raw / NAME / "labelsTr/a.png"), mask)
    picture(tmp_path / "more" / "b.png", gray())
    run("folder", "-i", tmp_path / "more", "--into", NAME)
    np.testing.assert_array_equal(read(raw / NAME / "imagesUn/b_0000.png"), np.stack([gray()] * 3, axis=-1))


def test_colours_are_kept_where_all_pictures_have_them(folder):
    red = np.zeros((6, 9, 3), np.uint8)
    red[..., 0] = 200
    picture(folder / "a.png", red)
    assert planned(folder).plan.channels == ("R", "G", "B")
    assert planned(folder, gray=True).plan.channels == ("image",)
    picture(folder / "b.png", gray())
    plan = planned(folder)
    assert plan.plan.channels == ("image",)
    assert "1 of 2 pictures have colours: made gray." in plan.notes


def test_coloured_pictures_are_written_with_three_channels(folder, raw):
    red = np.zeros((6, 9, 3), np.uint8)
    red[..., 0], red[0, 0, 1] = 200, 90
    picture(folder / "a.bmp", red)
    picture(folder / "a_mask.png", np.eye(6, 9, dtype=np.uint8))
    run("folder", "-i", folder, "-o", NAME)
    np.testing.assert_array_equal(read(raw / NAME / "imagesTr/a_0000.png"), red)
    channels = json.loads((raw / NAME / "dataset.json").read_text())["channel_names"]
    assert channels == {"0": "R", "1": "G", "2": "B"}


def test_pictures_among_volumes(folder):
    write(folder / "p1.nii.gz", scan())
    picture(folder / "thumbnail.png", gray())
    with pytest.raises(DataError, match="1 pictures .*lie among 1 volumes"):
        planned(folder)
    assert found(folder, images="*.nii.gz") == {"p1": ("unlabeled", [])}


def test_arrays(folder, raw):
    np.savez(folder / "a.npz", data=scan(), seg=blob(3))
    np.savez(folder / "b.npz", data=scan(1))
    run("folder", "-i", folder, "-o", NAME, "--axes", "zyx", "--spacing", "0.5", "0.5", "2")
    dataset = raw / NAME
    assert files(dataset)[2:] == ["imagesTr/a_0000.nii.gz", "imagesUn/b_0000.nii.gz", "labelsTr/a.nii.gz"]
    image = sitk.ReadImage(str(dataset / "imagesTr/a_0000.nii.gz"))
    assert image.GetSpacing() == (0.5, 0.5, 2.0)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan())
    np.testing.assert_array_equal(read(dataset / "labelsTr/a.nii.gz"), blob(1))
    with pytest.raises(DataError, match="--image-key"):
        planned(folder, image_key="ct")


def test_nothing_to_convert(folder):
    (folder / "a.docx").touch()
    with pytest.raises(DataError, match="1 files of other kinds"):
        planned(folder)
    with pytest.raises(DataError, match="folder of scans"):
        planned(folder / "missing")


def test_bare_folder_alone_makes_no_dataset(folder, raw):
    write(folder / "p1.nii.gz", scan())
    with pytest.raises(DataError, match="--into"):
        run("folder", "-i", folder, "-o", NAME)
    assert not (raw / NAME).exists()


def test_into_adds_bare_scans_once(folder, raw, tmp_path, capsys):
    write(folder / "p1.nii.gz", scan())
    write(folder / "p1_seg.nii.gz", blob())
    run("folder", "-i", folder, "-o", NAME)
    more = tmp_path / "more"
    write(more / "new" / "q1.nrrd", scan(1))
    write(more / "new" / "q2.nii.gz", scan(2))
    write(more / "new" / "q2_seg.nii.gz", blob())  # its label is left out
    run("folder", "-i", more, "--into", "701", "--dry-run")
    assert not (raw / NAME / "imagesUn").exists()
    run("folder", "-i", more, "--into", "701")
    assert files(raw / NAME / "imagesUn") == ["q1_0000.nii.gz", "q2_0000.nii.gz"]
    np.testing.assert_array_equal(read(raw / NAME / "imagesUn/q1_0000.nii.gz"), scan(1))
    run("folder", "-i", more, "--into", "701")
    out = capsys.readouterr().out
    assert "Added 0 scans" in out
    assert "Left out, masks: 1 file(s), q2_seg.nii.gz." in out
    write(more / "p1.nii.gz", scan())
    with pytest.raises(DataError, match="bear the name of a case in imagesTr: p1"):
        run("folder", "-i", more, "--into", "701")


@pytest.mark.parametrize("root", ["model", "raw", "results"])
def test_scans_to_predict(folder, raw, tmp_path, monkeypatch, capsys, root):
    """The model's dataset.json says how; it may be all that there is of the dataset."""
    write(folder / "q1" / "ct.nrrd", scan(1))
    write(folder / "q2.nii.gz", scan(2))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    model = {
        "model": tmp_path / "anywhere",
        "raw": raw / NAME,
        "results": tmp_path / "results" / NAME / "nnUNetTrainerPICK__nnUNetPlans__3d_fullres",
    }[root]
    model.mkdir(parents=True)
    content = {"labels": {"background": 0, "a": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    (model / "dataset.json").write_text(json.dumps(content))
    wanted = model if root == "model" else "701"
    run("folder", "-i", folder, "--predict", wanted, "-o", tmp_path / "new" / "scans")
    assert files(tmp_path / "new" / "scans") == ["added.json", "q1_0000.nii.gz", "q2_0000.nii.gz"]
    np.testing.assert_array_equal(read(tmp_path / "new" / "scans" / "q1_0000.nii.gz"), scan(1))
    run("folder", "-i", folder, "--predict", wanted, "-o", tmp_path / "new" / "scans")
    assert "Added 0 scans" in capsys.readouterr().out
    del content["channel_names"]
    (model / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="lacks 'channel_names'"):
        run("folder", "-i", folder, "--predict", wanted, "-o", tmp_path / "others")
    content["modality"] = {"0": "T1", "1": "T2"}  # the first nnU-Net's word, which nnU-Net still takes
    (model / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"has 1 channel file\(s\), but .* has 2"):
        run("folder", "-i", folder, "--predict", wanted, "-o", tmp_path / "others")


def test_scans_to_predict_need_a_model_and_a_place(folder, raw, tmp_path):
    write(folder / "q1.nii.gz", scan())
    with pytest.raises(ConfigError, match="expected -o with a folder"):
        run("folder", "-i", folder, "--predict", "701")
    (raw / NAME).mkdir()
    with pytest.raises(DataError, match="Name the folder of the trained model"):
        run("folder", "-i", folder, "--predict", "701", "-o", tmp_path / "out")


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])  # linked, converted
@pytest.mark.parametrize("copy", [(), ("--copy",)])
def test_into_tells_another_scan_of_the_same_name(dataset, tmp_path, ending, copy):
    for n in (1, 2):
        write(tmp_path / f"m{n}" / f"scan1{ending}", scan(n))
    for _ in range(2):
        run("folder", "-i", tmp_path / "m1", "--into", NAME, *copy)
    with pytest.raises(DataError, match=rf"from .*m1/scan1{ending}, not from .*m2/scan1{ending}\)"):
        run("folder", "-i", tmp_path / "m2", "--into", NAME, *copy)
    there = dataset / "imagesUn/scan1_0000.nii.gz"
    np.testing.assert_array_equal(read(there), scan(1))
    there.unlink()
    run("folder", "-i", tmp_path / "m2", "--into", NAME, *copy)
    np.testing.assert_array_equal(read(there), scan(2))


def test_a_corrected_scan_to_predict_is_no_longer_the_old_one(dataset, tmp_path):
    write(tmp_path / "new" / "q1.nrrd", scan(1))
    run("folder", "-i", tmp_path / "new", "--predict", NAME, "-o", tmp_path / "out")
    write(tmp_path / "new" / "q1.nrrd", scan(2))
    with pytest.raises(DataError, match=r"q1_0000\.nii\.gz \(its source .*q1\.nrrd was changed since"):
        run("folder", "-i", tmp_path / "new", "--predict", NAME, "-o", tmp_path / "out")


def test_into_goes_on_after_an_interruption(dataset, tmp_path, monkeypatch):
    for name in "ab":
        write(tmp_path / "more" / f"{name}.nrrd", scan())

    def interrupted(jobs, *_):
        yield convert_case.convert(jobs[0])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(into, "convert_all", interrupted)
        run("folder", "-i", tmp_path / "more", "--into", NAME)
    assert files(dataset / "imagesUn") == ["a_0000.nii.gz"]
    run("folder", "-i", tmp_path / "more", "--into", NAME)
    assert files(dataset / "imagesUn") == ["a_0000.nii.gz", "b_0000.nii.gz"]


def test_scans_to_predict_are_not_written_among_their_sources(dataset, tmp_path):
    write(tmp_path / "new" / "q1_0000.nii.gz", scan(1))
    for out in ("new", "new/out"):
        with pytest.raises(DataError, match="lies in -i"):
            run("folder", "-i", tmp_path / "new", "--predict", NAME, "-o", tmp_path / out)
    np.testing.assert_array_equal(read(tmp_path / "new" / "q1_0000.nii.gz"), scan(1))


@pytest.mark.parametrize("second", ["whole", "broken"])
def test_a_file_is_never_replaced_by_a_link_to_itself(raw, second):
    un = raw / NAME / "imagesUn"
    channels = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}}
    write(un / "q_0000.nii.gz", scan(1))
    (raw / NAME / "dataset.json").write_text(json.dumps({**channels, "file_ending": ".nii.gz"}))
    write(un / "q_0001.nii", scan(2))
    if second == "broken":
        (un / "q_0001.nii").write_bytes(b"broken")
        with pytest.raises(DataError, match="could not be added"):
            run("folder", "-i", un, "--into", NAME)
    else:
        run("folder", "-i", un, "--into", NAME)
    assert not (un / "q_0000.nii.gz").is_symlink()
    np.testing.assert_array_equal(read(un / "q_0000.nii.gz"), scan(1))


def test_a_file_is_never_replaced_by_its_own_conversion(tmp_path):
    path = write(tmp_path / "q_0000.nrrd", scan(1))
    case = Case("q", [path], None, "predict")
    job = convert_case.Job(case, tmp_path, ".nrrd", {}, True, False, "")
    assert convert_case.convert(job).record["how"] == ["left"]
    four = sitk.JoinSeries([itk(scan(1))])
    sitk.WriteImage(four, str(path))  # nnU-Net cannot read this as it is
    assert "would be replaced" in convert_case.convert(job).failure


def test_into_keeps_what_worked(folder, raw, tmp_path):
    write(folder / "p1.nii.gz", scan())
    write(folder / "p1_seg.nii.gz", blob())
    run("folder", "-i", folder, "-o", NAME)
    write(tmp_path / "more" / "q1.nii.gz", scan())
    (tmp_path / "more" / "q2.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError, match="1 of 2 scans could not be added"):
        run("folder", "-i", tmp_path / "more", "--into", NAME)
    assert files(raw / NAME / "imagesUn") == ["q1_0000.nii.gz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name of a public dataset"),
        (["folder"], "expected -i"),
        (["folder", "-i", "."], "Expected -o"),
        (["folder", "-i", ".", "--variant", "x"], "--variant is for public datasets only"),
        (["busi", "-i", ".", "--masks", "x"], "--masks is for convert folder only"),
        (["busy", "-i", ".", "-o", "1"], "There is no recipe 'busy'"),
        (["busi", "-i", ".", "-o", "1", "--variant", "x"], "expected one of all, lesions"),
        (["folder", "--about"], "for public datasets"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*arguments)
