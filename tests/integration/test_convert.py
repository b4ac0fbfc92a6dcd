"""``nnUNetv2_ssl convert`` as a user types it, and nnU-Net's own commands on what it makes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.layout import hidden_cases
from tests.integration.conftest import Workspace
from tests.real_data import SAMPLES, needs_data
from tests.unit.convert_files import blob, files, gray, picture, read, scan, splits, write

pytestmark = pytest.mark.integration


@pytest.fixture
def work(tmp_path):
    place = Workspace(tmp_path / "nnunet")
    for name in ("raw", "preprocessed", "results"):
        (place.root / name).mkdir(parents=True)
    return place


def integrity(work, dataset):
    """nnU-Net's own check of a raw dataset: shapes, geometry, labels and counts."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(work.root / "raw" / dataset), 1)


def test_list_and_about(work):
    listed = work.run("nnUNetv2_ssl", "convert", "--list").stdout
    for name in (
        "left_atrium",
        "pancreas_nih",
        "msd_spleen",
        "msd_lung",
        "btcv",
        "amos",
        "mnms",
        "brats2019",
        "busi",
    ):
        assert f"\n{name} " in listed
    about = work.run("nnUNetv2_ssl", "convert", "busi", "--about").stdout
    assert "Dataset_BUSI_with_GT/" in about and "Licence" in about


def test_pictures_with_the_split_of_a_paper(work, tmp_path):
    folder = tmp_path / "Dataset_BUSI_with_GT"
    for kind in ("benign", "malignant", "normal"):
        for n in range(1, 5):
            picture(folder / kind / f"{kind} ({n}).png", np.stack([gray(n, (40, 48))] * 3, axis=-1))
            mask = np.zeros((40, 48), np.uint8)
            mask[10:30, 12:30] = 255 * (kind != "normal")
            picture(folder / kind / f"{kind} ({n})_mask.png", mask)
    out = work.run(
        "nnUNetv2_ssl", "convert", "busi", "-i", tmp_path, "-o", 715, "--labeled", "propl-1of4", "-np", 2
    ).stdout
    assert "Wrote" in out and "propl-1of16, propl-1of8, propl-1of4" in out
    dataset = work.root / "raw" / "Dataset715_BUSI"
    (one,) = json.loads((work.preprocessed("Dataset715_BUSI") / "splits_final.json").read_text())
    assert one == splits(dataset)["propl-1of4"][0]
    integrity(work, "Dataset715_BUSI")
    hidden = hidden_cases(work.preprocessed("Dataset715_BUSI") / "splits_final.json", 0)
    assert hidden == one["unlabeled"] != []
    again = work.run("nnUNetv2_ssl", "convert", "busi", "-i", tmp_path, "-o", 715, "-np", 2).stdout
    assert "already holds this" in again


@needs_data(SAMPLES)
def test_real_left_atrium_h5(work):
    h5py = pytest.importorskip("h5py", reason="needs the extra 'convert'")
    work.run("nnUNetv2_ssl", "convert", "left_atrium", "-i", SAMPLES, "-o", 701, "-np", 2)
    dataset = work.root / "raw" / "Dataset701_LeftAtrium"
    for source in SAMPLES.glob("*/*/mri_norm2.h5"):
        name = source.parent.name
        image = sitk.ReadImage(str(dataset / f"imagesTr/la_{name}_0000.nii.gz"))
        with h5py.File(source) as file:
            assert image.GetSize() == file["image"].shape  # x, y, z
            np.testing.assert_array_equal(sitk.GetArrayFromImage(image), file["image"][()].T)
            np.testing.assert_array_equal(read(dataset / f"labelsTr/la_{name}.nii.gz"), file["label"][()].T)
        np.testing.assert_allclose(image.GetSpacing(), (0.625,) * 3)
    assert not (dataset / "splits").exists()  # two scans are no split
    integrity(work, "Dataset701_LeftAtrium")


def test_folder_of_volumes(work, tmp_path):
    for name in ("p1", "p2", "p3"):
        write(tmp_path / "in" / f"{name}.nrrd", scan(ord(name[1])))
    for name in ("p1", "p2"):
        write(tmp_path / "in" / "masks" / f"{name}.nii.gz", blob(7))
    command = ("nnUNetv2_ssl", "convert", "folder", "-i", tmp_path / "in", "-o", "Dataset600_Liver")
    shown = work.run(*command, "--dry-run").stdout
    assert "p3    imagesUn" in shown and not list((work.root / "raw").iterdir())
    work.run(*command, "--labels", "liver", "--channels", "CT", "-np", 2)
    dataset = work.root / "raw" / "Dataset600_Liver"
    assert [f for f in files(dataset) if "/" in f] == [
        "imagesTr/p1_0000.nrrd",
        "imagesTr/p2_0000.nrrd",
        "imagesUn/p3_0000.nrrd",
        "labelsTr/p1.nrrd",
        "labelsTr/p2.nrrd",
    ]
    np.testing.assert_array_equal(read(dataset / "labelsTr/p1.nrrd"), blob(1))
    integrity(work, "Dataset600_Liver")
    write(tmp_path / "more" / "q1.nii.gz", scan(9))
    work.run("nnUNetv2_ssl", "convert", "folder", "-i", tmp_path / "more", "--into", 600)
    assert files(dataset / "imagesUn") == ["p3_0000.nrrd", "q1_0000.nrrd"]


def test_mistakes_are_told_in_a_sentence(work, tmp_path):
    failed = work.run("nnUNetv2_ssl", "convert", "busi", "-i", tmp_path, "-o", 715, check=False)
    assert failed.returncode == 2
    assert "does not look like the official download: expected benign/benign (*).png" in failed.stderr
    assert "Traceback" not in failed.stderr
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").write_bytes(b"broken")
    write(tmp_path / "in" / "a_seg.nii.gz", blob())
    failed = work.run("nnUNetv2_ssl", "convert", "folder", "-i", tmp_path / "in", "-o", 600, check=False)
    assert failed.returncode == 2 and "a.nii.gz is unreadable" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not [p for p in (work.root / "raw").iterdir() if not p.name.startswith(".")]


@pytest.mark.slow
def test_killed_conversion_goes_on(work, tmp_path):
    for n in range(24):
        write(tmp_path / "in" / f"p{n:02d}.nrrd", scan(n, (40, 96, 96)))
        write(tmp_path / "in" / f"p{n:02d}_seg.nii.gz", blob(shape=(40, 96, 96)))
    script = Path(sys.executable).parent / "nnUNetv2_ssl"
    command = [
        str(script),
        "convert",
        "folder",
        "-i",
        str(tmp_path / "in"),
        "-o",
        "Dataset600_Liver",
        "-np",
        "1",
    ]
    write(tmp_path / "in" / "other.mha", scan(1, (40, 96, 96)))  # another format, so that none is linked
    log = work.root / "raw" / ".Dataset600_Liver.building" / "converted.jsonl"
    process = subprocess.Popen(command, env={**os.environ, **work.env}, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None and len(lines(log)) < 3:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert process.returncode < 0, "it ended before it could be killed"
    done = lines(log)
    assert 3 <= len(done) < 25
    assert not (work.root / "raw" / "Dataset600_Liver").exists()
    work.run(*["nnUNetv2_ssl", *command[1:]])
    dataset = work.root / "raw" / "Dataset600_Liver"
    assert len(files(dataset / "labelsTr")) == 24 and len(files(dataset / "imagesUn")) == 1
    record = {r["case"]: r for r in json.loads((dataset / "conversion.json").read_text())["cases"]}
    assert all(record[json.loads(line)["case"]] == json.loads(line) for line in done)
    for n in (0, 23):
        np.testing.assert_array_equal(read(dataset / f"imagesTr/p{n:02d}_0000.nii.gz"), scan(n, (40, 96, 96)))


def lines(log):
    return log.read_text().splitlines() if log.is_file() else []
