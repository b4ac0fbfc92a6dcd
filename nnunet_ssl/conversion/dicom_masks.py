"""Label maps from RTSTRUCT (pydicom, scikit-image) and DICOM-SEG (highdicom)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.dicom import read_series
from nnunet_ssl.conversion.folder_scan import Item
from nnunet_ssl.errors import DataError

_EXTRA = "{0} needs {1}. Install it: pip install {1}"


def names_in(item: Item) -> list[str]:
    """Names of the structures or segments in a file."""
    if item.kind == "rtstruct":
        return [str(roi.ROIName) for roi in _rtstruct(item.path).get("StructureSetROISequence", [])]
    seg = _segmentation(item.path)
    return [str(seg.get_segment_description(n).segment_label) for n in seg.segment_numbers]


def read_structures(
    kind: str, files: Sequence[Path], directory: Path, series: str, names: Sequence[str]
) -> sitk.Image:
    """Label map of a series: ``names[k]`` gets the value ``k + 1``; later ones win where they overlap.

    Args:
        kind: ``rtstruct`` or ``seg``.
        files: of the same series.
        directory: of the series.
        series: its identifier.
        names: structures to take, in the order of their values; upper and lower case do not matter.
    """
    scan = read_series(directory, series)
    label = np.zeros(scan.GetSize()[::-1], dtype=np.uint8 if len(names) < 256 else np.uint16)
    masks = _structures(files, scan) if kind == "rtstruct" else _segments(files, scan)
    wanted = [name.strip().lower() for name in names]
    found = [(wanted.index(name), mask) for name, mask in masks if name in wanted]
    for value, mask in sorted(found, key=lambda pair: pair[0]):
        label[mask] = value + 1
    image = sitk.GetImageFromArray(label)
    image.CopyInformation(scan)
    return image


def _structures(files: Sequence[Path], scan: sitk.Image) -> Iterator[tuple[str, np.ndarray]]:
    for file in files:
        content = _rtstruct(file)
        names = {roi.ROINumber: str(roi.ROIName) for roi in content.get("StructureSetROISequence", [])}
        for roi in content.get("ROIContourSequence", []):
            contours = [c.ContourData for c in roi.get("ContourSequence", []) if _is_closed(c)]
            name = names.get(roi.ReferencedROINumber, "")
            yield name.strip().lower(), _filled(contours, scan, f"{file}, {name}")


def _is_closed(contour: Any) -> bool:
    return str(contour.get("ContourGeometricType", "")).startswith("CLOSED_PLANAR")


def _filled(contours: Sequence[Sequence[float]], scan: sitk.Image, name: str) -> np.ndarray:
    """Voxels whose centres lie inside an odd number of the contours of their slice, so that holes stay open.

    Args:
        contours: x, y, z of each point in turn, in mm, as DICOM has them.
        scan: whose voxels are meant.
        name: for the message.
    """
    from skimage.draw import polygon

    mask = np.zeros(scan.GetSize()[::-1], dtype=bool)
    axes = np.reshape(scan.GetDirection(), (3, 3)) * scan.GetSpacing()
    for contour in contours:
        points = (np.reshape(np.asarray(contour, dtype=float), (-1, 3)) - scan.GetOrigin()) @ np.linalg.inv(
            axes
        ).T
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


def _segments(files: Sequence[Path], scan: sitk.Image) -> Iterator[tuple[str, np.ndarray]]:
    for file in files:
        seg = _segmentation(file)
        for number in seg.segment_numbers:
            name = str(seg.get_segment_description(number).segment_label).strip().lower()
            volume = seg.get_volume(
                segment_numbers=[number], combine_segments=True, allow_missing_positions=True
            )
            yield name, _on_scan(volume, scan)


def _on_scan(volume: Any, scan: sitk.Image) -> np.ndarray:
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
    resampled = sitk.Resample(image, scan, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(resampled) > 0


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
