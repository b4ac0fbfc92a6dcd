"""Reading: what is remembered of files of several types, and what is said of damaged ones."""

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage import io

from nnunet_ssl.doctor.facts import QUANTILE_LEVELS
from nnunet_ssl.doctor.inventory import CaseFiles
from nnunet_ssl.doctor.reading import read_case
from nnunet_ssl.doctor.scan import affordable_workers, scan

VOLUME = np.random.default_rng(0).integers(1, 900, (6, 8, 10)).astype(np.int16)


def write(path, array=VOLUME, spacing=(1.0, 2.0, 3.0), origin=(5.0, -7.0, 9.0), direction=None):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(np.array(direction, dtype=float).ravel())
    sitk.WriteImage(image, str(path))
    return path


def read(*images, label=None, reader=SimpleITKIO):
    return read_case(CaseFiles("imagesTr", "a", tuple(images), label), reader)


def test_facts_of_a_volume(tmp_path):
    padded = VOLUME.copy()
    padded[0] = padded[:, :, -2:] = 0
    facts = read(
        write(tmp_path / "a_0000.nii.gz", padded),
        label=write(tmp_path / "a.nii.gz", (padded > 500).astype(np.uint8)),
    )
    (channel,) = facts.channels
    assert facts.unreadable == ()
    assert facts.content_shape == (5, 8, 8)
    assert (channel.minimum, channel.maximum, channel.nonfinite) == (0, padded.max(), 0)
    content = padded[padded != 0]
    np.testing.assert_allclose(channel.mean, content.mean())
    np.testing.assert_allclose(channel.quantiles, np.quantile(content, QUANTILE_LEVELS), rtol=1e-6)
    assert facts.label is not None
    assert facts.label.counts == {0: int((padded <= 500).sum()), 1: int((padded > 500).sum())}
    assert channel.geometry.shape == (6, 8, 10)
    assert channel.geometry.spacing == (3, 2, 1)
    assert channel.geometry.orientation == "LPS"  # ITK's identity


def test_a_broken_link_says_so(tmp_path):
    link = tmp_path / "a.nii.gz"
    link.symlink_to(tmp_path / "moved.nii.gz")
    facts = read(write(tmp_path / "a_0000.nii.gz"), label=link)
    ((name, why),) = facts.unreadable
    assert name == "a.nii.gz"
    assert why == f"a link to {tmp_path / 'moved.nii.gz'}, which is not there"


def test_readers_agree_on_the_grid(tmp_path):
    turned = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    path = write(tmp_path / "a_0000.nii.gz", direction=turned)
    grids = [read(path, reader=reader).channels[0].geometry for reader in (SimpleITKIO, NibabelIO)]
    np.testing.assert_allclose(grids[0].affine, grids[1].affine, atol=1e-5)
    assert grids[0].orientation == grids[1].orientation == "PSL"
    assert read(path, reader=NibabelIOWithReorient).channels[0].geometry.orientation == "RAS"


def test_the_digest_sees_voxels_only(tmp_path):
    one = write(tmp_path / "a_0000.nii.gz")
    same = write(tmp_path / "b_0000.nrrd", VOLUME.astype(np.float32), spacing=(2, 2, 2))
    other = write(tmp_path / "c_0000.nii.gz", VOLUME + (np.arange(10) == 3).astype(np.int16))
    digests = [read(path).digest for path in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_that_itk_hides(tmp_path, value):
    array = VOLUME.astype(np.float32)
    array[2, 3, 4:7] = value
    path = tmp_path / "a_0000.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), path)
    facts = read(path, label=path)
    assert facts.channels[0].nonfinite == 3
    assert facts.label.nonfinite == 3
    assert np.isfinite(facts.channels[0].quantiles).all()


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.filterwarnings("ignore")
def test_a_file_cut_off(tmp_path, ending):
    path = write(tmp_path / f"a_0000{ending}")
    assert read(path).unreadable == ()
    path.write_bytes(path.read_bytes()[:-200])
    facts = read(path)
    assert facts.channels == ()
    assert [file for file, _ in facts.unreadable] == [path.name]


def test_a_wrong_checksum(tmp_path):
    path = write(tmp_path / "a_0000.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 255  # of the stored CRC
    path.write_bytes(content)
    ((_, why),) = read(path).unreadable
    assert "CRC" in why


def test_packed_in_several_members_is_fine(tmp_path):
    path = write(tmp_path / "a_0000.nii")
    content = path.read_bytes()
    packed = tmp_path / "b_0000.nii.gz"
    packed.write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    assert read(packed).unreadable == ()


def test_no_file_empty_file_and_a_text(tmp_path):
    (tmp_path / "empty_0000.nii.gz").touch()
    (tmp_path / "text_0000.nii.gz").write_text("I am no scan")
    images = [tmp_path / f"{name}_0000.nii.gz" for name in ("none", "empty", "text")]
    facts = read(*images)
    assert [file for file, _ in facts.unreadable] == [image.name for image in images]
    assert all(why for _, why in facts.unreadable)


def test_channels_of_different_shape_are_both_read(tmp_path):
    facts = read(write(tmp_path / "a_0000.nii.gz"), write(tmp_path / "a_0001.nii.gz", VOLUME[1:]))
    assert [c.geometry.shape for c in facts.channels] == [(6, 8, 10), (5, 8, 10)]
    assert facts.unreadable == ()


def test_pictures(tmp_path):
    grey, colour = VOLUME[0].astype(np.uint8), np.stack([VOLUME[i] for i in range(3)], -1).astype(np.uint8)
    for name, array in (("a_0000", grey), ("b_0000", colour), ("b", colour)):
        io.imsave(tmp_path / f"{name}.png", array, check_contrast=False)
    (channel,) = read(tmp_path / "a_0000.png", reader=NaturalImage2DIO).channels
    assert channel.geometry.shape == (1, 8, 10)
    assert channel.geometry.orientation is None
    assert channel.thumbnail.shape == (32, 32)
    assert len(read(tmp_path / "b_0000.png", reader=NaturalImage2DIO).channels) == 3
    masked = read(tmp_path / "a_0000.png", label=tmp_path / "b.png", reader=NaturalImage2DIO)
    assert "3: save it as greyscale" in masked.unreadable[0][1]


def test_strange_label_values(tmp_path):
    array = np.zeros((2, 3, 4), np.float32)
    array[0, 0, :2], array[1, 1, 1], array[1, 2, 3] = 0.5, -1, 70000
    facts = read(label=write(tmp_path / "a.nii.gz", array))
    assert facts.label.counts == {0: 20, 0.5: 2, -1: 1, 70000: 1}


def test_scan_keeps_the_order_and_workers_agree(tmp_path):
    cases = [
        CaseFiles("imagesUn", f"c{i}", (write(tmp_path / f"c{i}_0000.nii.gz", VOLUME + np.int16(i)),))
        for i in range(10)
    ]
    alone, together = scan(cases, SimpleITKIO, 1), scan(cases, SimpleITKIO, 2)
    assert [facts.case for facts in together] == [c.case for c in cases]
    assert [facts.digest for facts in alone] == [facts.digest for facts in together]


def test_workers_are_limited_by_memory(tmp_path, monkeypatch):
    cases = [CaseFiles("imagesUn", "a", (write(tmp_path / "a_0000.nii.gz"),))]  # 480 voxels of 14 bytes
    monkeypatch.setattr("nnunet_ssl.doctor.scan.available_memory", lambda: 2 * 3 * 480 * 14)
    assert affordable_workers(cases) == 3
    monkeypatch.setattr("nnunet_ssl.doctor.scan.available_memory", lambda: 10)
    assert affordable_workers(cases) == 1
