"""What the doctor remembers of a case after its files are closed: a few kilobytes, however large the scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

IMAGES_TR, IMAGES_UN, IMAGES_TS = "imagesTr", "imagesUn", "imagesTs"
QUANTILE_LEVELS = np.linspace(0.005, 0.995, 100)  # the ends are left out: a single hot voxel is no drift

Affine = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of an array lie.

    Attributes:
        shape: voxels (z, y, x); z is 1 for a 2D image.
        spacing: mm between them, in the same order, as nnU-Net's reader gives it.
        affine: 4x4 from voxel index (x, y, z) to mm (right, anterior, superior); ``None`` where the file type
            stores none.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    affine: Affine | None = None

    @property
    def orientation(self) -> str | None:
        """Directions in which x, y and z grow, such as ``LPS``; ``None`` where the file type stores none."""
        if self.affine is None:
            return None
        return "".join(map(str, nibabel.orientations.aff2axcodes(np.array(self.affine))))

    @property
    def extent(self) -> tuple[float, ...]:
        """Size of the field of view (z, y, x) in mm."""
        return tuple(n * s for n, s in zip(self.shape, self.spacing, strict=True))


@dataclass(frozen=True, eq=False)
class ChannelFacts:
    """One channel of an image.

    Attributes:
        file: name of the file it comes from.
        geometry: its voxel grid.
        nonfinite: voxels that are NaN or infinite, as the file stores them.
        minimum: smallest finite value.
        maximum: largest finite value.
        mean: of the finite voxels other than 0; 0 is padding in most scans.
        std: of the same voxels.
        quantiles: at ``QUANTILE_LEVELS``, of the same voxels.
        digest: equal for equal voxels on an equal grid, whatever header, compression and number type.
        thumbnail: see ``thumbnails.thumbnail``; ``None`` for a constant image.
    """

    file: str
    geometry: Geometry
    nonfinite: int
    minimum: float
    maximum: float
    mean: float
    std: float
    quantiles: NDArray[np.float32]
    digest: str
    thumbnail: NDArray[np.float16] | None = None

    @property
    def is_constant(self) -> bool:
        """Whether every voxel has the same value."""
        return self.minimum == self.maximum


@dataclass(frozen=True)
class LabelFacts:
    """One label file.

    Attributes:
        file: its name.
        geometry: its voxel grid.
        counts: voxels of each value that occurs; values need not be whole numbers, that is for a check.
        nonfinite: voxels that are NaN or infinite.
    """

    file: str
    geometry: Geometry
    counts: Mapping[float, int]
    nonfinite: int = 0


@dataclass(frozen=True)
class CaseFacts:
    """One case: its channels, its label if it has one, and what could not be read.

    Attributes:
        folder: ``imagesTr``, ``imagesUn`` or ``imagesTs``.
        case: identifier within the folder.
        channels: channels that could be read, in order.
        label: the label, ``None`` if there is none or it could not be read.
        content_shape: (z, y, x) of the box of voxels other than 0 in any channel: what nnU-Net keeps.
        unreadable: file name and reason of each file that could not be read.
    """

    folder: str
    case: str
    channels: tuple[ChannelFacts, ...] = ()
    label: LabelFacts | None = None
    content_shape: tuple[int, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """How the case is called in the table: its folder is named unless it is imagesTr."""
        return self.case if self.folder == IMAGES_TR else f"{self.folder}/{self.case}"

    @cached_property
    def digest(self) -> tuple[Any, ...]:
        """Equal for equal voxels in every channel."""
        return tuple(channel.digest for channel in self.channels)
