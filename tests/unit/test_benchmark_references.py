"""Test labels are compared with their scans before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_ssl.benchmark.plan import Plan, Settings, Wish
from nnunet_ssl.benchmark.references import check_references
from nnunet_ssl.benchmark.source import Source
from nnunet_ssl.errors import DataError

DESCRIPTION: dict[str, Any] = {"labels": {"background": 0, "organ": 1, "ignore": 2}, "file_ending": ".nii.gz"}
SCAN, LABEL = np.zeros((4, 5, 6), np.float32), np.ones((4, 5, 6), np.uint8)


def write(
    file: Path,
    array: NDArray[Any],
    spacing: tuple[float, ...] = (1.0, 1.0, 2.0),
    origin: tuple[float, ...] = (10.0, 20.0, 30.0),
) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    file.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(file))
    return file


def check(folder: Path, *tests: str, ending: str = ".nii.gz", processes: int = 1) -> list[str]:
    """Of the files ``images/CASE_0000`` and ``labels/CASE``."""
    pairs = {
        c: ([folder / "images" / f"{c}_0000{ending}"], folder / "labels" / f"{c}{ending}") for c in "abcd"
    }
    description = {**DESCRIPTION, "file_ending": ending}
    source = Source("Dataset901_One", folder, folder, description, pairs, {}, {})
    plan = Plan(Settings("Dataset901_One", "3d_fullres", "small"), Wish(), (tests,), ())
    return check_references(plan, source, processes)


def test_what_cannot_be_scored_is_named_before_the_training(tmp_path: Path) -> None:
    for case in "abcd":
        write(tmp_path / "images" / f"{case}_0000.nii.gz", SCAN)
    write(tmp_path / "labels" / "a.nii.gz", LABEL[1:])
    write(tmp_path / "labels" / "b.nii.gz", LABEL, spacing=(1.0, 1.0, 2.1))
    write(tmp_path / "labels" / "c.nii.gz", LABEL + 6)
    write(tmp_path / "labels" / "d.nii.gz", LABEL + 1)
    with pytest.raises(DataError) as caught:
        check(tmp_path, *"abcd")
    heading, *problems, advice = str(caught.value).splitlines()
    assert heading == "3 of 4 test case(s) could not be scored after the trainings:"
    assert [problem.split("/labels/")[1] for problem in problems] == [
        "a.nii.gz: shape (3, 5, 6), its scan has (4, 5, 6)",
        "b.nii.gz: spacing (2.1, 1, 1), its scan has (2, 1, 1)",
        "c.nii.gz: holds label(s) 7; dataset.json knows 0, 1, 2",
    ]
    assert "--test" in advice
    assert check(tmp_path, "d") == []  # those that are no test cases are not looked at


def test_a_header_that_is_off_is_a_remark(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a_0000.nii.gz", SCAN)
    write(tmp_path / "labels" / "a.nii.gz", LABEL, origin=(10.02, 20.0, 30.0))
    (remark,) = check(tmp_path, "a")
    assert remark.startswith("1 test label(s) are less than half a voxel beside their scan")
    assert "a.nii.gz: origin (10.02, 20, 30), its scan has (10, 20, 30)" in remark


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for case in "ab":
        write(tmp_path / "images" / f"{case}_0000.nii.gz", SCAN)
        write(tmp_path / "labels" / f"{case}.nii.gz", LABEL)
    (tmp_path / "images" / "a_0000.nii.gz").write_bytes(b"no image")
    (tmp_path / "labels" / "b.nii.gz").unlink()
    with pytest.raises(
        DataError, match=r"a_0000\.nii\.gz: cannot be read(.|\n)*labels/b\.nii\.gz: cannot be"
    ):
        check(tmp_path, "a", "b")


def test_formats_without_a_header_to_read_alone(tmp_path: Path) -> None:
    for folder, name, array in (("images", "a_0000", SCAN[0]), ("labels", "a", LABEL[0, 1:])):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(
            sitk.GetImageFromArray(array.astype(np.uint8)), str(tmp_path / folder / f"{name}.png")
        )
    with pytest.raises(DataError, match=r"a\.png: shape \(1, 4, 6\), its scan has \(1, 5, 6\)"):
        check(tmp_path, "a", ending=".png")
