"""Label maps from RTSTRUCT (pydicom, scikit-image) and DICOM-SEG (highdicom)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Series
from nnunet_ssl.conversion.dicom import read_series
from nnunet_ssl.conversion.folder_scan import Item
from nnunet_ssl.errors import DataError, few

_EXTRA = "{0} needs {1}. Install it: pip install {1}"
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

Draw = Callable[[sitk.Image], np.ndarray]  # the voxels of a scan that a structure covers


def folded(name: str) -> str:
    """A structure's name without what varies from file to file: upper and lower case, outer blanks."""
    return name.strip().lower()


def names_in(item: Item) -> list[str]:
    """Names of the outlined structures, of the segments, or of the one label, in a file."""
    return [item.label] if item.label else [name for name, _ in _drawings(item.kind, item.path)]


def read_structures(
    kind: str,
    files: Sequence[Path],
    series: Series,
    names: Sequence[str],
    allow_missing: bool = False,
) -> sitk.Image:
    """Label map of a series: ``names[k]`` gets the value ``k + 1``; later ones win where they overlap.

    Args:
        kind: ``rtstruct`` or ``seg``.
        files: that outline the series.
        series: the scan.
        names: structures to take, in the order of their values; upper and lower case do not matter.
        allow_missing: a structure that is not there is background.

    Raises:
        DataError: a structure covers no voxel, or lies elsewhere than the scan.
    """
    scan = read_series(series)
    label = np.zeros(scan.GetSize()[::-1], dtype=np.uint8 if len(names) < 256 else np.uint16)
    found = [(name, draw) for file in files for name, draw in _drawings(kind, file)]
    for value, wanted in enumerate(names, start=1):
        covered = False
        for draw in [draw for name, draw in found if folded(name) == folded(wanted)]:
            mask = draw(scan)
            label[mask] = value
            covered |= bool(mask.any())
        if not (covered or allow_missing):
            there = ", ".join(sorted({name.strip() for name, _ in found})) or "none"
            raise DataError(
                f"{few(files)}: {wanted} covers no voxel of the scan. Expected all structures in each scan, "
                f"found {there}. Correct the file, or add --allow-missing-labels if this patient is really "
                "without."
            )
    image = sitk.GetImageFromArray(label)
    image.CopyInformation(scan)
    return image


def _drawings(kind: str, file: Path) -> Iterator[tuple[str, Draw]]:
    """Name of each structure in a file, and how to draw it."""
    return _structures(file) if kind == "rtstruct" else _segments(file)


def _structures(file: Path) -> Iterator[tuple[str, Draw]]:
    content = _rtstruct(file)
    names = {roi.ROINumber: str(roi.ROIName) for roi in content.get("StructureSetROISequence", [])}
    for roi in content.get("ROIContourSequence", []):
        closed = [c for c in roi.get("ContourSequence", []) if _is_closed(c)]
        name = names.get(roi.ReferencedROINumber, "")
        if closed:
            yield name, partial(_filled, closed, name=f"{file}, {name}")


def _is_closed(contour: Any) -> bool:
    return contour.get("ContourGeometricType") in _CLOSED and bool(contour.get("ContourData"))


def _filled(contours: Sequence[Any], scan: sitk.Image, name: str) -> np.ndarray:
    """Voxels whose centres lie inside an odd number of the contours of their slice, so that holes stay open.

    Args:
        contours: items of a contour sequence; one that is stored twice counts once.
        scan: whose voxels are meant.
        name: for the message.
    """
    from skimage.draw import polygon

    mask = np.zeros(scan.GetSize()[::-1], dtype=bool)
    axes = np.reshape(scan.GetDirection(), (3, 3)) * scan.GetSpacing()
    for contour in dict.fromkeys(tuple(map(float, c.ContourData)) for c in contours):
        points = (np.reshape(contour, (-1, 3)) - scan.GetOrigin()) @ np.linalg.inv(axes).T
        depth = points[:, 2]
        slice_ = int(np.rint(depth.mean()))
        if np.abs(depth - slice_).max() > 0.3 or not 0 <= slice_ < len(mask):
            raise DataError(
                f"{name}: a contour lies between or outside of the slices of the scan (slice "
                f"{depth.mean():.2f} of {len(mask)}). Expected contours drawn on this very series. Export "
                "series and structures together."
            )
        rows, columns = polygon(points[:, 1], points[:, 0], shape=mask.shape[1:])
        mask[slice_, rows, columns] ^= True
    return mask


def _segments(file: Path) -> Iterator[tuple[str, Draw]]:
    seg = _segmentation(file)
    for number in seg.segment_numbers:
        name = str(seg.get_segment_description(number).segment_label)
        yield name, partial(_segment, seg, number, name=f"{file}, {name}")


def _segment(seg: Any, number: int, scan: sitk.Image, name: str) -> np.ndarray:
    volume = seg.get_volume(segment_numbers=[number], combine_segments=True, allow_missing_positions=True)
    return _on_scan(volume, scan, name)


def _on_scan(volume: Any, scan: sitk.Image, name: str) -> np.ndarray:
    """A highdicom volume (axes slices, rows, columns) on the voxels of a scan, by nearest neighbour."""
    affine = volume.affine  # LPS, from the array's indices
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    array = (np.asarray(volume.array) > 0).astype(np.uint8)
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(array.transpose(2, 1, 0))
    )  # its first axis is ITK's x
    image.SetSpacing([float(s) for s in spacing])
    image.SetDirection([float(v) for v in (affine[:3, :3] / spacing).ravel()])
    image.SetOrigin([float(v) for v in affine[:3, 3]])
    _check_place(image, scan, name)
    resampled = sitk.Resample(image, scan, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(resampled) > 0


def _check_place(segment: sitk.Image, scan: sitk.Image, name: str) -> None:
    """Raise ``DataError`` where more than a hundredth of a segment, its border say, lies beyond the scan."""
    here = sitk.Image(scan.GetSize(), sitk.sitkUInt8) + 1
    here.CopyInformation(scan)
    here = sitk.Resample(here, segment, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    voxels = sitk.GetArrayViewFromImage(segment) > 0
    outside = int((voxels & (sitk.GetArrayViewFromImage(here) == 0)).sum())
    if outside > 0.01 * voxels.sum():
        raise DataError(
            f"{name}: {outside} of {voxels.sum()} voxels lie outside of the scan. Expected a segmentation "
            "of this very series. Export series and segmentation together."
        )


def _rtstruct(path: Path) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise DataError(_EXTRA.format("RTSTRUCT", "pydicom")) from error
    return pydicom.dcmread(path)


def _segmentation(path: Path) -> Any:
    try:
        from highdicom.seg import segread
    except ImportError as error:
        raise DataError(_EXTRA.format("DICOM-SEG", "highdicom")) from error
    return segread(path)
