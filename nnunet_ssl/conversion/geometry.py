"""Label maps must lie on the voxels of their scan: tell whether they do, and put right what is clear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.errors import DataError, few

_TOLERANCE = 1e-2  # of a voxel: headers are rounded, and nnU-Net itself tolerates more


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie: ITK's size, spacing, origin and direction, x first, mm, LPS."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image | sitk.ImageFileReader) -> Grid:
        """The grid of an image, or of the file whose header a reader has read."""
        return cls(
            tuple(image.GetSize()),
            tuple(image.GetSpacing()),
            tuple(image.GetOrigin()),
            tuple(image.GetDirection()),
        )

    @property
    def is_blank(self) -> bool:
        """Whether the header says nothing: spacing 1, origin 0, axes along those of the patient."""
        n = len(self.size)
        return (
            self.spacing == (1.0,) * n
            and self.origin == (0.0,) * n
            and np.allclose(self.direction, np.eye(n).ravel())
        )

    def corners(self) -> np.ndarray:
        """Positions of the first voxel and of the last one along each axis, in mm."""
        n = len(self.size)
        axes = np.reshape(self.direction, (n, n)) * self.spacing
        last = np.diag(np.subtract(self.size, 1))
        return np.asarray(self.origin + np.vstack([np.zeros(n), last]) @ axes.T)

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        spacing = "x".join(f"{v:.4g}" for v in self.spacing)
        origin = ", ".join(f"{v:.4g}" for v in self.origin)
        axes = ", ".join(f"{v:.3g}" for v in self.direction)
        return f"size {size}, spacing {spacing}, origin ({origin}), axes ({axes})"


def grid_of_file(path: Path) -> tuple[Grid, int] | None:
    """Grid and number of channels in the header of a file; ``None`` if ITK cannot read it."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return Grid.of(reader), reader.GetNumberOfComponents()


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two images have their voxels at the same places, to a hundredth of a voxel."""
    if a.size != b.size:
        return False
    return bool(np.abs(a.corners() - b.corners()).max() <= _TOLERANCE * min(a.spacing))


def fit_label(label: sitk.Image, grid: Grid, name: str) -> sitk.Image:
    """The label on the grid of its image.

    A label is put right where only one reading is possible: one of the two is a single slice of a volume, the
    axes are flipped or swapped but the voxels are the image's, or one of the headers is blank.

    Raises:
        DataError: the label lies elsewhere; the message names ``name``.
    """
    label = _same_dimension(label, grid)
    own = Grid.of(label)
    if same_grid(own, grid):
        return _on_grid(label, grid)
    if len(grid.size) == len(own.size) == 3:
        turned = sitk.DICOMOrient(label, _orientation(grid))
        if same_grid(Grid.of(turned), grid):
            return _on_grid(turned, grid)
    # Last, since a header that says nothing may also be true: spacing 1, origin 0.
    if own.size == grid.size and (own.is_blank or grid.is_blank):
        return _on_grid(label, grid)
    raise DataError(
        f"{name}: the label does not lie on the voxels of the scan. The scan has {grid}; the label has "
        f"{own}. Resample the label to the scan, or take the pair out."
    )


def mapped(label: sitk.Image, values: Mapping[int, int], name: str) -> sitk.Image:
    """The label with new values, as the smallest unsigned type.

    Raises:
        DataError: it holds a value that ``values`` lacks.
    """
    array = sitk.GetArrayViewFromImage(label)
    check_values(label, values, name)
    lookup = np.zeros(max(values) + 1, dtype=np.uint8 if max(values.values()) < 256 else np.uint16)
    lookup[list(values)] = list(values.values())
    new = sitk.GetImageFromArray(lookup[array.astype(np.int64)])
    new.CopyInformation(label)
    return new


def check_values(label: sitk.Image, values: Mapping[int, int], name: str) -> None:
    """Raise ``DataError`` where a label map holds a value that ``values`` lacks, or has several channels."""
    if label.GetNumberOfComponentsPerPixel() > 1:
        raise DataError(
            f"{name}: the label map has {label.GetNumberOfComponentsPerPixel()} channels: expected one."
        )
    unknown = [f"{v:g}" for v in np.unique(sitk.GetArrayViewFromImage(label)) if v not in values]
    if unknown:
        raise DataError(
            f"{name}: the label map holds the value(s) {few(unknown)}; expected "
            f"{', '.join(map(str, sorted(values)))}. Correct the file, or say what the values mean."
        )


def _same_dimension(label: sitk.Image, grid: Grid) -> sitk.Image:
    if label.GetDimension() == 3 and len(grid.size) == 2 and label.GetSize()[2] == 1:
        return sitk.Extract(label, [*label.GetSize()[:2], 0])
    if label.GetDimension() == 2 and len(grid.size) == 3 and grid.size[2] == 1:
        return sitk.JoinSeries(label)
    return label


def _orientation(grid: Grid) -> str:
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(grid.direction))


def _on_grid(label: sitk.Image, grid: Grid) -> sitk.Image:
    new = sitk.Image(label)
    new.SetSpacing(grid.spacing)
    new.SetOrigin(grid.origin)
    new.SetDirection(grid.direction)
    return new
