"""Read DICOM series, and refuse those whose slices do not make one volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Series
from nnunet_ssl.errors import DataError

_TAGS = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "InstanceNumber",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
)


def header(path: Path, tags: Sequence[str]) -> Any:
    """Entries of a DICOM file, without its pixels.

    Raises:
        DataError: pydicom is not installed, or the file is unreadable.
    """
    try:
        import pydicom
    except ImportError as error:
        raise DataError(f"{path} is DICOM, which needs pydicom. Install it: pip install pydicom") from error
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
    except (pydicom.errors.InvalidDicomError, OSError, EOFError) as error:
        raise DataError(f"{path} is unreadable as DICOM: {error}. Remove it, or export it again.") from error


def slices_of(series: Series) -> list[Any]:
    """Headers of the files of a series, along the normal of its slices; by number where that is unknown.

    Raises:
        DataError: a file is unreadable.
    """
    slices = [header(series.folder / file, _TAGS) for file in series.files]
    places = _places(slices)
    if places is None:
        return sorted(slices, key=lambda one: int(one.get("InstanceNumber") or 0))
    along = places[0] @ _normal(places[1][0])
    return [slices[k] for k in np.argsort(along, kind="stable")]


def read_series(series: Series) -> sitk.Image:
    """Read a series, in Hounsfield units where the header gives the scale.

    Raises:
        DataError: slices are missing, doubled, shifted or differ in size, or a file is unreadable.
    """
    slices = slices_of(series)
    _check_slices(slices, series.folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(one.filename) for one in slices])
    if len({(one.get("RescaleSlope"), one.get("RescaleIntercept")) for one in slices}) > 1:
        reader.SetOutputPixelType(sitk.sitkFloat32)  # else the first slice's type, which may be whole numbers
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise DataError(
            f"{series.folder}: the series is unreadable: {str(error).splitlines()[-1]}"
        ) from error
    low, high = sitk.GetArrayViewFromImage(image).min(), sitk.GetArrayViewFromImage(image).max()
    if -32768 <= low and high <= 32767 and image.GetPixelID() in (sitk.sitkInt32, sitk.sitkUInt16):
        image = sitk.Cast(image, sitk.sitkInt16)
    return image


def _check_slices(slices: Sequence[Any], where: Path) -> None:
    """Raise ``DataError`` unless the slices are the planes of one upright grid."""
    for one in slices:
        if int(one.get("NumberOfFrames") or 1) > 1:
            raise DataError(
                f"{one.filename} holds {one.NumberOfFrames} frames: expected a file for each slice. Export "
                "it as an ordinary series, or convert it to NIfTI first (dcm2niix)."
            )
    places = _places(slices)
    if len(slices) == 1 or places is None:
        return  # secondary captures and the like: nothing is known of their places
    positions, orientations = places
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise DataError(
            f"{where}: slices are turned against each other: the series holds several volumes. Export them "
            "as series of their own."
        )
    normal = _normal(orientations[0])
    along = positions @ normal
    _check_steps(along, [str(Path(one.filename).relative_to(where)) for one in slices], where)
    sideways = positions - positions[0] - np.outer(along - along[0], normal)
    drift, pixel = np.linalg.norm(sideways, axis=1).max(), min(slices[0].get("PixelSpacing") or [1.0])
    if drift > 0.5 * pixel:
        raise DataError(
            f"{where}: slices are shifted sideways, by up to {drift:.4g} mm, as under a tilted gantry. "
            "Convert the scan to an upright grid first (dcm2niix does)."
        )


def _check_steps(along: np.ndarray, names: Sequence[str], where: Path) -> None:
    """Raise ``DataError`` unless the slices lie at equal distances, to a tenth of one."""
    steps = np.diff(along)
    usual = float(np.median(steps))
    if (steps <= 1e-3 * usual).any():
        twice = int(np.argmin(steps))
        raise DataError(
            f"{where}: {len(along)} slices lie at {len(np.unique(along.round(3)))} places, {names[twice]} "
            f"where {names[twice + 1]} is: the series holds several volumes (phases, echoes), or copies. "
            "Export volumes as series of their own, remove copies."
        )
    if np.abs(steps / usual - 1).max() > 0.1:
        gap = int(np.argmax(np.abs(steps / usual - 1)))
        raise DataError(
            f"{where}: slices are {usual:.4g} mm apart, but {steps[gap]:.4g} mm between {names[gap]} and "
            f"{names[gap + 1]}: slices are missing. Export the series again."
        )


def _places(slices: Sequence[Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Position and orientation of every slice, if each has them."""
    positions = [one.get("ImagePositionPatient") or () for one in slices]
    orientations = [one.get("ImageOrientationPatient") or () for one in slices]
    if {len(p) for p in positions} != {3} or {len(o) for o in orientations} != {6}:
        return None
    return np.array(positions, dtype=float), np.array(orientations, dtype=float)


def _normal(orientation: np.ndarray) -> np.ndarray:
    normal = np.cross(orientation[:3], orientation[3:])
    return normal / np.linalg.norm(normal)
