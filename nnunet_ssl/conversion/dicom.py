"""Read DICOM series, and refuse those whose slices do not make one volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.errors import DataError

INSTANCE_NUMBER = "0020|0013"
_POSITION, _ORIENTATION = "0020|0032", "0020|0037"


def series_beneath(folder: Path) -> list[tuple[Path, str]]:
    """Directory and identifier of every series beneath a folder."""
    directories = sorted({path.parent for path in folder.rglob("*") if path.is_file()})
    return [(d, uid) for d in directories for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(d))]


def only_series(folder: Path) -> tuple[Path, str]:
    """Directory and identifier of the one series beneath a folder.

    Raises:
        DataError: there is none, or several.
    """
    found = series_beneath(folder)
    if len(found) != 1:
        raise DataError(f"{folder}: expected one DICOM series beneath it, found {len(found)}.")
    return found[0]


def series_files(directory: Path, uid: str) -> list[str]:
    """Files of a series, along the normal of its slices."""
    return list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(directory), uid))


def read_series(directory: Path, uid: str) -> sitk.Image:
    """Read a series, in Hounsfield units where the header gives the scale.

    Raises:
        DataError: slices are missing, doubled or differ in size, or a file is unreadable.
    """
    files = series_files(directory, uid)
    if not files:
        raise DataError(f"{directory} holds no series {uid}.")
    if len(files) > 1:
        check_spacing(files, directory)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise DataError(f"{directory}: the series is unreadable: {str(error).splitlines()[-1]}") from error
    low, high = sitk.GetArrayViewFromImage(image).min(), sitk.GetArrayViewFromImage(image).max()
    if -32768 <= low and high <= 32767 and image.GetPixelID() in (sitk.sitkInt32, sitk.sitkUInt16):
        image = sitk.Cast(image, sitk.sitkInt16)
    return image


def check_spacing(files: Sequence[str], where: Path) -> None:
    """Raise ``DataError`` unless the slices lie at equal distances, to a tenth of one."""
    positions = [_numbers(tag(file, _POSITION)) for file in files]
    orientation = _numbers(tag(files[0], _ORIENTATION))
    if any(p is None for p in positions) or orientation is None:
        return  # secondary captures and the like: nothing is known of their places
    normal = np.cross(orientation[:3], orientation[3:])
    along = np.array(positions) @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    if usual == 0 or (np.abs(steps) < 1e-3 * abs(usual)).any():
        raise DataError(
            f"{where}: {len(files)} slices lie at {len(np.unique(along.round(3)))} places: the series holds "
            "several volumes (phases, echoes). Export them as series of their own."
        )
    if np.abs(steps / usual - 1).max() > 0.1:
        gap = int(np.argmax(np.abs(steps / usual - 1)))
        raise DataError(
            f"{where}: slices are {usual:.4g} mm apart, but {steps[gap]:.4g} mm between "
            f"{Path(files[gap]).name} and {Path(files[gap + 1]).name}: slices are missing. Export the series "
            "again."
        )


def tag(file: str, key: str) -> str:
    """Text of a header entry such as ``0020|0013``; empty if it is not there."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.SetImageIO("GDCMImageIO")
    reader.ReadImageInformation()
    return str(reader.GetMetaData(key)).strip() if reader.HasMetaDataKey(key) else ""


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(part) for part in text.split("\\")] if text else None
    except ValueError:
        return None
