"""``nnUNetv2_ssl doctor`` on small datasets: a healthy one, and the same with one thing wrong at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ssl.cli import main
from nnunet_ssl.doctor.findings import CHECK_NAMES

pytestmark = pytest.mark.integration

NAME = "Dataset930_Doctor"
TRAIN, VAL, HIDDEN = [f"c{i}" for i in range(4)], ["c4", "c5"], [f"c{i}" for i in range(6, 10)]


def anatomy(seed: int, shape: tuple[int, ...] = (12, 24, 24)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (100 + 400 * ndimage.gaussian_filter(rng.normal(size=shape), 1.2)).astype(np.float32)


def mask(shape: tuple[int, ...] = (12, 24, 24)) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[..., 4:12, 4:12], label[..., 14:20, 14:20] = 1, 2
    return label


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def build(root: Path, ending: str, shape: tuple[int, ...], prefix: str = "") -> Path:
    """Ten labelled cases, six unlabelled scans, two test scans, one fold."""
    folder = root / "raw" / NAME
    convert = (lambda a: np.clip(a / 2, 0, 255).astype(np.uint8)) if ending == ".png" else (lambda a: a)
    for role, letter, count in (("imagesTr", "c", 10), ("imagesUn", "u", 6), ("imagesTs", "t", 2)):
        for i in range(count):
            seed = 100 * ord(letter) + i
            save(folder / role / f"{prefix}{letter}{i}_0000{ending}", convert(anatomy(seed, shape)))
            if role == "imagesTr":
                save(folder / "labelsTr" / f"{prefix}c{i}{ending}", mask(shape))
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "organ": 1, "tumour": 2},
        "numTraining": 10,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    preprocessed = root / "preprocessed" / NAME
    preprocessed.mkdir(parents=True)
    fold = {
        key: [prefix + c for c in cases]
        for key, cases in (("train", TRAIN), ("val", VAL), ("unlabeled", HIDDEN))
    }
    (preprocessed / "splits_final.json").write_text(json.dumps([fold]))
    return folder


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("healthy")
    build(root, ".nii.gz", (12, 24, 24))
    return root


@pytest.fixture
def patient(healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the healthy dataset that a test may spoil."""
    shutil.copytree(healthy, tmp_path, dirs_exist_ok=True)
    use(tmp_path, monkeypatch)
    yield tmp_path / "raw" / NAME


def use(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir(exist_ok=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(root / name))


def doctor(*arguments: str) -> int:
    try:
        return main(["doctor", "-d", "930", "-np", "1", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def findings(folder: Path) -> list[tuple[str, str]]:
    content = json.loads((folder / "doctor.json").read_text())
    return [(finding["severity"], finding["check"]) for finding in content["findings"]]


def test_healthy(patient: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("-o", str(tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    assert "10 in imagesTr, 6 in imagesUn, 2 in imagesTs; fold 0; read in" in printed
    assert "All fine: nothing found. Training may start." in printed
    assert (tmp_path / "out" / "doctor_intensities.png").stat().st_size > 10_000
    assert findings(tmp_path / "out") == []


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def cut_off(d: Path) -> None:
    path = d / "imagesUn" / "u2_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:3000])


def nan(d: Path) -> None:
    volume = anatomy(5)
    volume[3, 3, 3] = np.nan
    save(d / "imagesUn" / "u2_0000.nii.gz", volume)


def constant(d: Path) -> None:
    save(d / "imagesUn" / "u2_0000.nii.gz", np.full((12, 24, 24), 5.0, np.float32))


def copied_to_test(d: Path) -> None:
    shutil.copy(d / "imagesUn" / "u1_0000.nii.gz", d / "imagesTs" / "t7_0000.nii.gz")


def copied_in_disguise(d: Path) -> None:
    """A validation case among the unlabelled: 8 bit, other brightness, upside down, header not told."""
    volume = read(d / "imagesTr" / "c4_0000.nii.gz")
    small = np.round(255 * (volume - volume.min()) / np.ptp(volume)).astype(np.uint8)
    save(d / "imagesUn" / "u7_0000.nii.gz", np.ascontiguousarray(small[:, ::-1]))


def wrong_value(d: Path) -> None:
    save(d / "labelsTr" / "c1.nii.gz", mask() * np.uint8(100))


def other_shape(d: Path) -> None:
    save(d / "labelsTr" / "c1.nii.gz", mask((12, 24, 20)))


def blank_masks(d: Path) -> None:
    for i in range(1, 5):
        save(d / "labelsTr" / f"c{i}.nii.gz", 0 * mask())


def absent_class(d: Path) -> None:
    for case in TRAIN:
        save(d / "labelsTr" / f"{case}.nii.gz", np.minimum(mask(), 1))


def no_label(d: Path) -> None:
    (d / "labelsTr" / "c7.nii.gz").unlink()


def no_channel_number(d: Path) -> None:
    (d / "imagesUn" / "u1_0000.nii.gz").rename(d / "imagesUn" / "u1.nii.gz")


def second_channel(d: Path) -> None:
    shutil.copy(d / "imagesUn" / "u1_0000.nii.gz", d / "imagesUn" / "u1_0001.nii.gz")


def same_name(d: Path) -> None:
    save(d / "imagesUn" / "c4_0000.nii.gz", anatomy(77))


def flat(d: Path) -> None:
    save(d / "imagesUn" / "u8_0000.nii.gz", anatomy(78)[:1])


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (cut_off, "unreadable"),
        (nan, "nan"),
        (constant, "constant"),
        (copied_to_test, "duplicate"),
        (copied_in_disguise, "duplicate"),
        (wrong_value, "label-values"),
        (other_shape, "label-geometry"),
        (blank_masks, "blank-label"),
        (absent_class, "absent-class"),
        (no_label, "missing-label"),
        (no_channel_number, "file-names"),
        (second_channel, "channels"),
        (same_name, "two-parts"),
        (flat, "dimension"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*low contrast")
def test_one_thing_wrong(patient: Path, tmp_path: Path, spoil: Callable[[Path], None], check: str) -> None:
    spoil(patient)
    assert doctor("-f", "0", "-o", str(tmp_path / "out")) == 1
    found = findings(tmp_path / "out")
    assert ("error", check) in found
    assert [c for severity, c in found if severity == "error"] == [check]
    assert {c for _, c in found} <= set(CHECK_NAMES)
    assert doctor("--accept", check) == 0  # the user knows better


def test_torn_patients(patient: Path, tmp_path: Path) -> None:
    # c0 to c4 and c5 to c9 are made one patient each
    assert doctor("--group-regex", "c(?:[0-4]|[5-9])|[ut]\\d", "-o", str(tmp_path / "out")) == 0
    assert doctor("--group-regex", "^c|[ut]\\d", "-o", str(tmp_path / "out")) == 1
    assert findings(tmp_path / "out") == [("error", "torn-patient")]


def test_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = build(tmp_path, ".png", (64, 64))
    use(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "400")  # no line is broken
    assert doctor() == 0
    assert "All fine" in capsys.readouterr().out
    shutil.copy(folder / "imagesTr" / "c0_0000.png", folder / "imagesTs" / "t5_0000.png")
    assert doctor() == 1
    assert "c0 = imagesTs/t5 (equal voxels)" in " ".join(capsys.readouterr().out.split())


def test_tasks(patient: Path, tmp_path: Path) -> None:
    """Two tasks: a case of the first shows nothing of the second, and need not."""
    content = json.loads((patient / "dataset.json").read_text())
    tasks = [
        {"name": "Organ", "labels": ["organ"], "prefix": "c"},
        {"name": "Tumour", "labels": ["tumour"], "prefix": "d"},
    ]
    (patient / "dataset.json").write_text(json.dumps(content | {"nnunet_ssl": {"tasks": tasks}}))
    for i in range(10):
        old = "d" if i % 2 else "c"
        save(
            patient / "labelsTr" / f"{old}{i}.nii.gz",
            (mask() == 1 + i % 2).astype(np.uint8) * np.uint8(1 + i % 2),
        )
        if i % 2:
            (patient / "labelsTr" / f"c{i}.nii.gz").unlink()
            (patient / "imagesTr" / f"c{i}_0000.nii.gz").rename(patient / "imagesTr" / f"d{i}_0000.nii.gz")
    splits = tmp_path / "preprocessed" / NAME / "splits_final.json"
    text = splits.read_text()
    for i in range(1, 10, 2):
        text = text.replace(f'"c{i}"', f'"d{i}"')
    splits.write_text(text)
    assert doctor("-o", str(tmp_path / "out")) == 0
    assert findings(tmp_path / "out") == []
    save(patient / "labelsTr" / "d1.nii.gz", (mask() == 1).astype(np.uint8))  # the other task's label
    assert doctor("-o", str(tmp_path / "out")) == 0
    assert sorted(findings(tmp_path / "out")) == [("warning", "blank-label"), ("warning", "foreign-labels")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-c", "3d_fullres"), "Run nnUNetv2_plan_and_preprocess first"),
        (("-p", "myPlans"), "Run nnUNetv2_plan_and_preprocess first"),
        (("-f", "3"), "has 1 fold"),
        (("--accept", "geometry"), "unknown geometry"),
    ],
)
def test_what_it_cannot_do(
    patient: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert doctor(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_with_plans(workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Plans of nnU-Net's own: what is preprocessed needs no room, what is new does."""
    from nnunet_ssl.doctor import machine, nnunet
    from nnunet_ssl.doctor.examine import Request, examine

    for key, value in workspace.env.items():
        monkeypatch.setenv(key, value)
    raw, preprocessed = workspace.root / "raw" / "Dataset901_One", workspace.preprocessed("Dataset901_One")
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    dataset_json = json.loads((raw / "dataset.json").read_text())
    facts = nnunet.plan_facts(preprocessed, plans, "3d_fullres", dataset_json, with_gpu=True)
    assert {case for folder, case in facts.done if folder == "imagesTr"} == {f"c{i}" for i in range(6)}
    assert facts.gpu_gb is not None
    assert 0.01 < facts.gpu_gb < 8
    monkeypatch.setattr(machine, "free_disk", lambda folder: 10_000)
    result = examine(Request(raw, "3d_fullres", fold="0"))
    expected = [] if {f"u{i}" for i in range(3)} <= {case for _, case in facts.done} else ["disk"]
    assert [f.check for f in result.findings if f.check == "disk"] == expected
    plans["configurations"]["3d_fullres"]["data_identifier"] = "elsewhere"
    (preprocessed / "doctorPlans.json").write_text(json.dumps(plans | {"plans_name": "doctorPlans"}))
    (disk,) = (f for f in examine(Request(raw, plans="doctorPlans")).findings if f.check == "disk")
    assert "Preprocessing 9 case(s) for doctorPlans, 3d_fullres" in disk.found
    (preprocessed / "doctorPlans.json").unlink()
