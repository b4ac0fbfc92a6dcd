"""Reading of every kind of file, and laying labels on the voxels of their scans."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion import images
from nnunet_ssl.conversion.geometry import Grid, check_values, fit_label, grid_of_file, mapped, same_grid
from nnunet_ssl.errors import DataError
from tests.unit.convert_files import (
    DIRECTION,
    ORIGIN,
    SHAPE,
    SPACING,
    blob,
    gray,
    itk,
    picture,
    read,
    scan,
    write,
)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"])
def test_volume_keeps_voxels_and_geometry(tmp_path, ending):
    image = images.read_file(write(tmp_path / f"a{ending}", scan()))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan())
    assert same_grid(Grid.of(image), Grid.of(itk(scan())))


def test_ending_knows_double_and_upper_case(tmp_path):
    assert images.ending_of(tmp_path / "a.b.NII.GZ") == ".nii.gz"
    assert images.stem_of(tmp_path / "a.b.NII.GZ") == "a.b"
    assert images.ending_of(tmp_path / "a.b.PNG") == ".png"


def test_skewed_header_is_straightened_to_the_nearest_axes(tmp_path):
    affine = np.diag([-2.0, -2.0, 5.0, 1.0])
    affine[0, 1] = 0.01  # ITK refuses this: the columns are not orthogonal
    nibabel.save(nibabel.Nifti1Image(scan().T, affine), tmp_path / "a.nii.gz")
    image = images.read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan())
    np.testing.assert_allclose(image.GetSpacing(), (2, 2, 5), rtol=1e-4)
    axes = np.reshape(image.GetDirection(), (3, 3))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(axes, np.eye(3), atol=5e-3)


def test_far_from_orthogonal_is_refused(tmp_path):
    affine = np.diag([-2.0, -2.0, 5.0, 1.0])
    affine[0, 1] = 1.0
    nibabel.save(nibabel.Nifti1Image(scan().T, affine), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="far from orthogonal"):
        images.read_volume(tmp_path / "a.nii.gz")


def test_frame_of_a_sequence(tmp_path):
    sequence = np.stack([scan(i) for i in range(3)])
    nibabel.save(nibabel.Nifti1Image(sequence.T, np.diag([-0.5, -0.75, 3, 1])), tmp_path / "a.nii.gz")
    image = images.read_frame(tmp_path / "a.nii.gz", 2)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan(2))
    assert image.GetSpacing() == (0.5, 0.75, 3.0)
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel())
    with pytest.raises(DataError, match="frame 7"):
        images.read_frame(tmp_path / "a.nii.gz", 7)


def test_fourth_dimension_of_one_is_dropped_and_others_are_refused(tmp_path):
    for frames, name in ((1, "one"), (2, "two")):
        image = sitk.JoinSeries([itk(scan(i)) for i in range(frames)])
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    assert images.read_volume(tmp_path / "one.nrrd").GetSize() == SHAPE[::-1]
    with pytest.raises(DataError, match="three dimensions"):
        images.read_volume(tmp_path / "two.nrrd")


def test_unreadable_file_is_named(tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    (tmp_path / "bad.png").write_bytes(b"no image")
    for name in ("bad.nii.gz", "bad.png"):
        with pytest.raises(DataError, match=name):
            images.read_file(tmp_path / name)
    with pytest.raises(DataError, match=r"\.docx|no kind"):
        images.read_file(tmp_path / "a.docx")


def test_picture_colours(tmp_path):
    one = gray()
    alike = picture(tmp_path / "alike.png", np.stack([one] * 3, axis=-1))
    with_alpha = picture(tmp_path / "alpha.png", np.stack([one, one, one, one // 2], axis=-1))
    for path in (alike, with_alpha):
        np.testing.assert_array_equal(read_gray(path), one)
    red = np.zeros((2, 3, 3), np.uint8)
    red[..., 0] = 200
    path = picture(tmp_path / "red.png", red)
    assert (read_gray(path) == 60).all()  # 0.299 * 200 = 59.8
    assert images.read_picture(path, gray=False).GetNumberOfComponentsPerPixel() == 3


def read_gray(path):
    return sitk.GetArrayFromImage(images.read_picture(path))


def test_union_of_masks(tmp_path):
    first, second = np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.uint8)
    first[0, 0], second[1, 3] = 255, 1
    paths = [picture(tmp_path / f"{i}.png", m) for i, m in enumerate((first, second))]
    union = sitk.GetArrayFromImage(images.read_mask(paths))
    assert union.sum() == 2 and union[0, 0] == union[1, 3] == 1
    assert sitk.GetArrayFromImage(images.read_mask(paths, above=127)).sum() == 1
    other = picture(tmp_path / "other.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(DataError, match="size"):
        images.read_mask([paths[0], other])


def test_arrays_in_both_orders_of_axes(tmp_path):
    np.savez(tmp_path / "a.npz", img=scan(), flat=gray())
    image = images.read_array(tmp_path / "a.npz", "img", "zyx", (1, 2, 3))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan())
    assert image.GetSpacing() == (1.0, 2.0, 3.0)
    swapped = images.read_array(tmp_path / "a.npz", "img", "xyz")
    assert swapped.GetSize() == SHAPE
    assert swapped.GetPixel(1, 2, 3) == scan()[1, 2, 3]
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(images.read_array(tmp_path / "a.npz", "flat", "zyx")), gray()
    )
    with pytest.raises(DataError, match="img, flat"):
        images.read_array(tmp_path / "a.npz", "image")


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"], file["label"] = scan().T, blob().T
    assert sorted(images.array_keys(tmp_path / "a.h5")) == ["image", "label"]
    image = images.read_array(tmp_path / "a.h5", "image", "xyz", (0.5, 0.75, 3))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan())
    (tmp_path / "b.h5").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"b\.h5"):
        images.array_keys(tmp_path / "b.h5")


def test_written_file_is_whole_or_absent(tmp_path):
    images.write_image(itk(scan(dtype=np.float64)), tmp_path / "a.nii.gz")
    assert read(tmp_path / "a.nii.gz").dtype == np.float32
    with pytest.raises(RuntimeError):
        images.write_image(itk(scan()), tmp_path / "a.unknown")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


def test_same_grid_needs_size_place_and_direction():
    grid = Grid.of(itk(scan()))
    assert same_grid(grid, Grid.of(itk(scan(), origin=(-12.504, 30.25, 7.0))))  # 0.008 of a voxel
    assert not same_grid(grid, Grid.of(itk(scan(), origin=(-12.4, 30.25, 7.0))))
    assert not same_grid(grid, Grid.of(itk(scan(), spacing=(0.5, 0.75, 3.1))))
    assert not same_grid(grid, Grid.of(itk(scan(), direction=tuple(np.eye(3).ravel()))))
    assert not same_grid(grid, Grid.of(itk(scan(shape=(4, 6, 4)))))


def test_grid_of_file_is_that_of_the_image(tmp_path):
    found = grid_of_file(write(tmp_path / "a.nii.gz", scan()))
    assert found is not None and found[1] == 1
    assert same_grid(found[0], Grid.of(itk(scan())))
    assert grid_of_file(tmp_path / "missing.nii.gz") is None


@pytest.mark.parametrize("code", ["RAS", "LPI", "SAR", "ASL"])
def test_label_in_another_orientation_comes_back_voxel_by_voxel(code):
    turned = sitk.DICOMOrient(itk(blob()), code)
    label = fit_label(turned, Grid.of(itk(scan())), "a")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), blob())
    assert (label.GetSpacing(), label.GetOrigin(), label.GetDirection()) == (SPACING, ORIGIN, DIRECTION)


def test_label_with_a_blank_header_takes_that_of_the_scan():
    blank = sitk.GetImageFromArray(blob())
    label = fit_label(blank, Grid.of(itk(scan())), "a")
    assert label.GetSpacing() == SPACING
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), blob())


@pytest.mark.parametrize("code", ["RAS", "SAR"])
def test_a_header_that_looks_blank_may_be_true(code):
    true = {"spacing": (1.0,) * 3, "origin": (0.0,) * 3, "direction": tuple(np.eye(3).ravel())}
    cube = (5, 5, 5)  # of one size in all directions, as the blank header's branch demands
    turned = sitk.DICOMOrient(itk(blob(shape=cube), **true), code)
    label = fit_label(turned, Grid.of(itk(scan(shape=cube), **true)), "a")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), blob(shape=cube))


def test_label_of_one_slice_for_a_picture():
    label = fit_label(itk(blob(shape=(1, 6, 9), at=(0, 1, 2))), Grid.of(sitk.GetImageFromArray(gray())), "a")
    assert label.GetSize() == (9, 6)


@pytest.mark.parametrize(
    "label",
    [itk(blob(), origin=(0, 0, 0)), itk(blob(shape=(4, 6, 4), at=(1, 2, 3))), itk(blob(), spacing=(1, 1, 1))],
    ids=["moved", "other size", "other spacing"],
)
def test_label_elsewhere_is_refused(label):
    with pytest.raises(DataError, match="case7: the label does not lie on the voxels of the scan"):
        fit_label(label, Grid.of(itk(scan())), "case7")


def test_values_are_mapped_and_unknown_ones_named():
    label = mapped(itk(blob(255)), {0: 0, 255: 3}, "a")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), blob(3))
    assert label.GetPixelID() == sitk.sitkUInt8
    assert label.GetOrigin() == ORIGIN
    with pytest.raises(DataError, match=r"a: .*255.*expected 0, 1"):
        mapped(itk(blob(255)), {0: 0, 1: 1}, "a")
    with pytest.raises(DataError, match="0.5"):
        check_values(itk(blob().astype(np.float32) / 2), {0: 0, 1: 1}, "a")
