"""Recipes for ultrasound, each on a few tiny files in the layout of its official download."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion.recipes import load_recipe, plan_recipe
from nnunet_ssl.conversion.ultrasound import to_bytes
from nnunet_ssl.errors import DataError
from tests.unit.convert_files import NAME, files, gray, make, picture, read, splits, write


def square(row, column, shape=(6, 9), value=255):
    mask = np.zeros(shape, np.uint8)
    mask[row : row + 2, column : column + 2] = value
    return mask


def colours(pixels):
    return np.stack([pixels] * 3, axis=-1)


def check_shares(dataset, train):
    """ProPL's three splits: a quarter held out, nested labelled sets, every case in one role."""
    made = splits(dataset)
    shares = [made[f"propl-1of{n}"][0] for n in (16, 8, 4)]
    for one in shares:
        assert sorted(one["train"] + one["val"] + one["unlabeled"]) == sorted(train)
        assert one["val"] == shares[0]["val"]
        assert one["models_chosen_on_test"] and "ProPL" in one["source"]
    assert set(shares[0]["train"]) <= set(shares[1]["train"]) <= set(shares[2]["train"])
    return shares


# breast
# ----------------------------------------------------------------------------------------------------------


def busi(folder, count=8):
    for kind in ("benign", "malignant", "normal"):
        for n in range(1, count + 1):
            name = folder / kind / f"{kind} ({n})"
            picture(name.with_name(f"{name.name}.png"), colours(gray(n)))
            mask = square(1, 1) if kind != "normal" else np.zeros((6, 9), np.uint8)
            picture(
                name.with_name(f"{name.name}_mask.png"), mask > 0 if n == 2 else mask
            )  # one-bit files occur
    picture(folder / "benign" / "benign (3)_mask_1.png", colours(square(4, 6)))  # with colour channels, too


def test_busi(raw, download):
    busi(download / "Dataset_BUSI_with_GT")
    dataset = make("busi", download)
    assert len(files(dataset / "imagesTr")) == 24
    np.testing.assert_array_equal(read(dataset / "imagesTr/busi_benign3_0000.png"), gray(3))
    label = read(dataset / "labelsTr/busi_benign3.png")
    np.testing.assert_array_equal(label, (square(1, 1) + square(4, 6)) // 255)  # both lesions
    np.testing.assert_array_equal(read(dataset / "labelsTr/busi_benign2.png"), square(1, 1) // 255)
    assert read(dataset / "labelsTr/busi_normal1.png").max() == 0
    shares = check_shares(
        dataset, [f"busi_{k}{n}" for k in ("benign", "malignant", "normal") for n in range(1, 9)]
    )
    assert [len(one["train"]) for one in shares] == [1, 2, 4]  # of 18: 1.125, 2.25 and 4.5, the fewer of two
    assert len(shares[0]["val"]) == 6


def test_busi_lesions_only_and_incomplete(raw, download):
    busi(download)
    assert plan_recipe("busi", download, NAME, "lesions").counts() == {"train": 16}
    (download / "benign" / "benign (4)_mask.png").unlink()
    with pytest.raises(DataError, match=r"benign \(4\)\.png has no mask"):
        plan_recipe("busi", download, NAME)


def test_udiat(raw, download):
    for n in range(1, 5):
        picture(download / "BUS" / "original" / f"{n:06d}.png", gray(n))
        picture(download / "BUS" / "GT" / f"{n:06d}.png", square(n - 1, n))
    dataset = make("udiat", download)
    np.testing.assert_array_equal(read(dataset / "labelsTr/udiat_000003.png"), square(2, 3) // 255)
    assert json.loads((dataset / "dataset.json").read_text())["file_ending"] == ".png"


def test_size_of_mask_and_image_must_agree(raw, download):
    picture(download / "original" / "000001.png", gray())
    picture(download / "GT" / "000001.png", square(1, 1, shape=(9, 6)))
    with pytest.raises(DataError, match="udiat_000001: the label does not lie on the voxels"):
        make("udiat", download)


# fetal head
# ------------------------------------------------------------------------------------------------------


def ellipse_outline(shape, centre, radii):
    """The one-pixel border of a filled ellipse."""
    rows, columns = np.indices(shape)
    inside = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1
    inner = inside.copy()
    inner[1:-1, 1:-1] = (
        inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:] & inside[1:-1, 1:-1]
    )
    inner[[0, -1]] = inner[:, [0, -1]] = False
    return inside, (inside & ~inner).astype(np.uint8) * 255


def test_hc18_outline_becomes_its_area(raw, download):
    cut = {}
    for name, centre in (
        ("000_HC", (30, 40)),
        ("010_HC", (30, 5)),
        ("010_2HC", (28, 40)),
        ("011_HC", (2, 40)),
    ):
        inside, outline = ellipse_outline((60, 80), centre, (20, 30))
        if name in (
            "010_HC",
            "011_HC",
        ):  # the edge of the picture cuts the head: the outline stays open there
            outline[:, 0] = np.where(inside[:, 0] & (np.indices((60,))[0] % 60 > 0), 0, outline[:, 0])
            outline[0] = 0
        cut[name] = inside
        picture(download / "training_set" / f"{name}.png", gray(1, (60, 80)))
        picture(download / "training_set" / f"{name}_Annotation.png", outline)
    picture(download / "test_set" / "000_HC.png", gray(2, (60, 80)))
    (download / "training_set_pixel_size_and_HC.csv").touch()
    dataset = make("hc18", download, test_as_unlabeled=True)
    assert files(dataset / "imagesUn") == ["hc18test_000_HC_0000.png"]
    for name in ("000_HC", "010_2HC"):
        np.testing.assert_array_equal(read(dataset / f"labelsTr/hc18_{name}.png"), cut[name])
    for name in ("010_HC", "011_HC"):
        label = read(dataset / f"labelsTr/hc18_{name}.png")
        assert (label == cut[name]).mean() > 0.98
        assert label[30 if name == "010_HC" else 10, 20 if name == "010_HC" else 40] == 1
    plan = plan_recipe("hc18", download, NAME)
    assert {c.identifier: c.group for c in plan.cases if c.subset == "train"} == {
        "hc18_000_HC": "000",
        "hc18_010_HC": "010",
        "hc18_010_2HC": "010",
        "hc18_011_HC": "011",
    }


def test_hc18_blank_outline(raw, download):
    picture(download / "training_set" / "000_HC.png", gray())
    picture(download / "training_set" / "000_HC_Annotation.png", np.zeros((6, 9), np.uint8))
    with pytest.raises(DataError, match="blank: expected the outline"):
        make("hc18", download)


# heart
# -----------------------------------------------------------------------------------------------------------


def camus_label():
    label = np.zeros((6, 9), np.uint8)
    label[1, 2:5] = (1, 2, 3)
    return label


def camus(folder, patients, ending, dimensions):
    for n in patients:
        for view in ("2CH", "4CH"):
            for phase in ("ED", "ES"):
                name = folder / f"patient{n:04d}" / f"patient{n:04d}_{view}_{phase}"
                for suffix, pixels in (("", gray(n)), ("_gt", camus_label())):
                    array = pixels[None] if dimensions == 3 else pixels
                    write(name.with_name(f"{name.name}{suffix}{ending}"), array)
        (folder / f"patient{n:04d}" / "Info_2CH.cfg").touch()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_camus_nifti(raw, download, dimensions):
    camus(download / "CAMUS_public" / "database_nifti", (1, 2, 3, 4, 5, 6, 7, 8, 9), ".nii.gz", dimensions)
    lists = download / "CAMUS_public" / "database_split"
    lists.mkdir()
    (lists / "subgroup_testing.txt").write_text("patient0002\n")
    dataset = make("camus", download)
    assert files(dataset / "imagesTs") == [
        f"patient0002_{v}_{p}_0000.png" for v in ("2CH", "4CH") for p in ("ED", "ES")
    ]
    np.testing.assert_array_equal(read(dataset / "imagesTr/patient0003_4CH_ES_0000.png"), gray(3))
    np.testing.assert_array_equal(read(dataset / "labelsTr/patient0003_4CH_ES.png"), camus_label())
    one = splits(dataset)["propl-1of8"][0]
    patients = [{case[:11] for case in one[role]} for role in ("train", "val", "unlabeled")]
    assert len(patients[0]) == 1 and len(patients[1]) == 2
    assert not patients[0] & patients[1] and not patients[1] & patients[2] and not patients[0] & patients[2]


def test_camus_first_release(raw, download):
    camus(download / "training", (1, 2), ".mhd", 3)
    camus(download / "testing", (1,), ".mhd", 3)
    for path in (download / "testing").rglob("*_gt*"):
        path.unlink()
    plan = plan_recipe("camus", download, NAME)
    assert plan.counts() == {"train": 8, "test": 4}
    dataset = make("camus", download)
    np.testing.assert_array_equal(read(dataset / "imagesTr/patient0002_2CH_ED_0000.png"), gray(2))
    assert files(dataset / "imagesTs")[0] == "test_patient0001_2CH_ED_0000.png"


def test_values_beyond_a_byte_are_stretched():
    image = sitk.GetImageFromArray(np.array([[0.0, 100.0], [300.0, 400.0]]))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(to_bytes(image)), [[0, 64], [191, 255]])
    within = sitk.GetImageFromArray(np.array([[0.4, 254.6]]))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(to_bytes(within)), [[0, 255]])
    flat = sitk.GetImageFromArray(np.full((2, 2), 300.0))
    assert sitk.GetArrayFromImage(to_bytes(flat)).max() == 0


def hmc_qu(folder, two_rows):
    openpyxl = pytest.importorskip("openpyxl", reason="needs the extra 'convert'")
    av = pytest.importorskip("av", reason="needs the extra 'convert'")
    from scipy.io import savemat

    (folder / "HMC-QU" / "A4C").mkdir(parents=True)
    (folder / "LV Ground-truth Segmentation Masks").mkdir()
    with av.open(str(folder / "HMC-QU/A4C/ES0001_4CH_1.avi"), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 448, 320, "yuv420p"
        for k in range(6):
            pixels = np.full((320, 448, 3), 30 * k + 20, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    masks = np.zeros((3, 224, 224), np.uint8)
    for k in range(3):
        masks[k, 10 * k : 10 * k + 5, 7] = 1
    savemat(folder / "LV Ground-truth Segmentation Masks" / "Mask_ES0001_4CH_1.mat", {"predicted": masks})
    book = openpyxl.Workbook()
    sheet = book.active
    if two_rows:
        sheet.append(["ECHO", "LV wall segments", None, None])
        sheet.append([None, "SEG1", "Reference Frame", "End of Cycle"])
    else:
        sheet.append(["ECHO", "SEG1", "Reference Frame", "End of Cycle"])
    sheet.append(["ES0001_4CH_1", "MI", 3, 5])
    sheet.append(["ES0002_4CH_1", "non-MI", None, None])
    book.save(folder / "A4C.xlsx")
    return masks


@pytest.mark.parametrize("two_rows", [False, True])
def test_hmc_qu_takes_the_frames_of_the_masks(raw, download, two_rows):
    masks = hmc_qu(download, two_rows)
    dataset = make("hmc_qu", download)
    assert files(dataset / "labelsTr") == [f"ES0001_4CH_1_{k:03d}.png" for k in range(3)]
    for k in range(3):
        np.testing.assert_array_equal(read(dataset / f"labelsTr/ES0001_4CH_1_{k:03d}.png"), masks[k])
        image = read(dataset / f"imagesTr/ES0001_4CH_1_{k:03d}_0000.png")
        assert image.shape == (224, 224)
        assert abs(float(image.mean()) - (30 * (k + 2) + 20)) < 3  # frame 3, counted from 1, is the first


def test_hmc_qu_incomplete(raw, download):
    hmc_qu(download, False)
    (download / "HMC-QU/A4C/ES0001_4CH_1.avi").rename(download / "HMC-QU/A4C/ES0009_4CH_1.avi")
    with pytest.raises(DataError, match="has no video called ES0001_4CH_1"):
        plan_recipe("hmc_qu", download, NAME)


# ovary
# -----------------------------------------------------------------------------------------------------------


def test_mmotu(raw, download):
    folder = download / "OTU_2d"
    for n in (1, 2, 3, 10):
        picture(folder / "images" / f"{n}.JPG", colours(gray(n, (16, 16))))
        coloured = np.zeros((16, 16, 3), np.uint8)
        coloured[2:8, 3:9, 0] = 64  # dark red
        picture(folder / "annotations" / f"{n}.PNG", coloured)
    picture(folder / "annotations" / "1_binary.PNG", square(4, 4, (16, 16)))
    picture(folder / "annotations" / "2_binary_binary.PNG", square(5, 5, (16, 16), value=1))
    (folder / "train.txt").write_text("1\n2\n3\n")
    (folder / "val.txt").write_text("10.JPG\n")
    dataset = make("mmotu", download)
    np.testing.assert_array_equal(read(dataset / "labelsTr/mmotu_1.png"), square(4, 4, (16, 16)) // 255)
    np.testing.assert_array_equal(read(dataset / "labelsTr/mmotu_2.png"), square(5, 5, (16, 16), value=1))
    assert read(dataset / "labelsTr/mmotu_3.png").sum() == 36
    assert files(dataset / "labelsTs") == ["mmotu_10.png"]
    (folder / "annotations" / "3.PNG").unlink()
    with pytest.raises(DataError, match="no annotation of image 3"):
        plan_recipe("mmotu", download, NAME)


# thyroid
# ---------------------------------------------------------------------------------------------------------


def jpeg_mask(path, mask):
    picture(path, mask)
    assert len(np.unique(read(path))) > 2  # JPEG has blurred it


def test_tn3k(raw, download):
    folder = download / "Thyroid Dataset" / "tn3k"
    mask = np.zeros((32, 32), np.uint8)
    mask[9:23, 9:23] = 255
    for part, count in (("trainval", 5), ("test", 2)):
        for n in range(count):
            picture(folder / f"{part}-image" / f"{n:04d}.jpg", gray(n, (32, 32)))
            jpeg_mask(folder / f"{part}-mask" / f"{n:04d}.jpg", mask)
    for k in range(2):
        content = {"train": [n for n in range(5) if n != k], "val": [k]}
        (folder / f"tn3k-trainval-fold{k}.json").write_text(json.dumps(content))
    dataset = make("tn3k", download)
    np.testing.assert_array_equal(read(dataset / "labelsTr/tn3ktrainval_0003.png"), mask // 255)
    assert files(dataset / "labelsTs") == ["tn3ktest_0000.png", "tn3ktest_0001.png"]
    official = splits(dataset)["official-5fold"]
    assert [one["val"] for one in official] == [["tn3ktrainval_0000"], ["tn3ktrainval_0001"]]
    assert all(one["unlabeled"] == [] and not one["models_chosen_on_test"] for one in official)


def test_tg3k_keeps_sweeps_whole(raw, download):
    folder = download / "tg3k"
    sizes = [(32, 32)] * 6 + [(32, 40)] * 6 + [(32, 32)] * 6 + [(40, 40)] * 6
    for n, shape in enumerate(sizes):
        picture(folder / "thyroid-image" / f"{n:04d}.jpg", gray(n, shape))
        mask = np.zeros(shape, np.uint8)
        mask[9:23, 9:23] = 255
        jpeg_mask(folder / "thyroid-mask" / f"{n:04d}.jpg", mask)
    dataset = make("tg3k", download)
    for one in check_shares(dataset, [f"tg3k_{n:04d}" for n in range(24)]):
        parts = [{int(case[5:]) // 6 for case in one[role]} for role in ("train", "val", "unlabeled")]
        assert len(one["train"]) == len(one["val"]) == 6
        assert not parts[0] & parts[1] and not parts[1] & parts[2] and not parts[0] & parts[2]


def ddti_mark(number, *polygons):
    regions = [
        {"points": [{"x": x, "y": y} for x, y in p], "annotation": None, "regionType": "freehand"}
        for p in polygons
    ]
    return f"<mark><image>{number}</image><svg>{json.dumps(regions) if polygons else ''}</svg></mark>"


def ddti(folder):
    for name in ("1_1", "2_1", "2_2", "3_1", "4_1"):
        picture(folder / f"{name}.jpg", colours(gray(1, (20, 30))))
    box, other = [(3, 5), (12, 5), (12, 9), (3, 9)], [(20, 10), (24, 10), (24, 14), (20, 14)]
    header = '<?xml version="1.0"?><case><number>{}</number><age>40</age>'
    (folder / "1.xml").write_text(header.format(1) + ddti_mark(1, box, other) + "</case>")
    (folder / "2.xml").write_text(header.format(2) + ddti_mark(2, box) + ddti_mark(1) + "</case>")
    truncated = ddti_mark(1, box).replace('pe": "freehand"}]', "")
    (folder / "3.xml").write_text(header.format(3) + truncated + "</case>")


def test_ddti_polygons(raw, download):
    download.mkdir()
    ddti(download)
    dataset = make("ddti", download)
    box = np.zeros((20, 30), np.uint8)
    box[5:10, 3:13] = 1
    both = box.copy()
    both[10:15, 20:25] = 1
    labels = {p.stem: read(p) for p in (dataset / "labelsTr").iterdir()}
    assert sorted(labels) == [
        "ddti_1_1",
        "ddti_2_2",
        "ddti_3_1",
    ]  # 3.xml is cut off, but its points are whole
    for name, area in (("ddti_1_1", both), ("ddti_2_2", box), ("ddti_3_1", box)):
        differs = np.argwhere(labels[name] != area)
        assert len(differs) <= 30 and labels[name].sum() > 0
        assert (labels[name] <= area).all()  # the right and lower border may belong to the outside
        assert labels[name][7, 8] == 1 and labels[name][3, 3] == 0
    assert files(dataset / "imagesUn") == [
        "ddti_2_1_0000.png",
        "ddti_4_1_0000.png",
    ]  # no outline is no blank mask


def test_ddti_broken_xml(raw, download):
    download.mkdir()
    ddti(download)
    (download / "1.xml").write_text("<case><mark>")
    with pytest.raises(DataError, match=r"1\.xml is no valid XML"):
        plan_recipe("ddti", download, NAME)


def test_all_of_them_can_be_merged():
    names = ("busi", "udiat", "hc18", "camus", "hmc_qu", "mmotu", "tn3k", "tg3k", "ddti")
    recipes = [load_recipe(name).RECIPE for name in names]
    assert {(recipe.file_ending, tuple(recipe.channels)) for recipe in recipes} == {(".png", ("US",))}
