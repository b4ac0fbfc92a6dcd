"""A small picture of each scan, by which copies are known again.

A scan is averaged to 16 x 16 x 16 (32 x 32 for 2D), in the directions right-anterior-superior; what is
smoother than a cell or so is taken away, mean and norm are made 0 and 1. The product of two thumbnails is
then a correlation that does not notice brightness, contrast, compression, number type or resolution. Smooth
contents must go: with them, two heads from the same kind of scanner correlate at 0.96. ``docs/doctor.md`` has
the measurements behind sizes and thresholds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_ssl.doctor.facts import Affine

CELLS_3D, CELLS_2D = 16, 32
_HIGH_PASS = 1.0  # standard deviation, in cells, of the smoothing that is taken away
_CHUNK = 512  # rows of the correlation matrix at a time


def thumbnail(
    volume: NDArray[Any], affine: Affine | None, window: tuple[float, float]
) -> NDArray[np.float16] | None:
    """Thumbnail of a scan: (16, 16, 16) or, for a scan of one slice, (32, 32), of norm 1.

    Args:
        volume: (z, y, x), finite. It is clipped in place, since a copy may take gigabytes.
        affine: from voxel index (x, y, z) to mm, if known.
        window: values are clipped to it, lest one bright voxel outweigh all others.

    Returns:
        ``None`` if nothing is left to see: the scan is constant.
    """
    np.clip(volume, *window, out=volume)
    flat = volume.shape[0] == 1
    small = shrink(volume[0], CELLS_2D) if flat else shrink(volume, CELLS_3D)
    if affine is not None and not flat:
        # (x, y, z) for nibabel; a cube may be turned after averaging as well as before
        small = nibabel.orientations.apply_orientation(
            small.T, nibabel.orientations.io_orientation(np.array(affine))
        )
    fine = small - ndimage.gaussian_filter(small, _HIGH_PASS)
    fine -= fine.mean()
    norm = float(np.linalg.norm(fine))
    if norm <= 1e-5 * max(abs(window[0]), abs(window[1]), 1e-30):  # rounding errors only
        return None
    return (fine / norm).astype(np.float16)


def shrink(array: NDArray[Any], cells: int) -> NDArray[np.float64]:
    """Average over equal boxes: any array to one with ``cells`` along each axis, parts of voxels weighed."""
    for axis in range(array.ndim):
        weights = _overlaps(array.shape[axis], cells).astype(array.dtype)
        # One matrix product per axis: no copy of the large array
        array = np.moveaxis(np.tensordot(weights, array, axes=(1, axis)), 0, axis)
    return array.astype(np.float64)


def _overlaps(length: int, cells: int) -> NDArray[np.float64]:
    """(cells, length): share of each voxel in each cell; rows sum to 1."""
    edges = np.linspace(0, length, cells + 1)
    voxels = np.arange(length)
    low = np.maximum(edges[:-1, None], voxels)
    high = np.minimum(edges[1:, None], voxels + 1)
    return np.maximum(high - low, 0) / (length / cells)


def similar_pairs(
    thumbnails: Sequence[Sequence[NDArray[np.float16]]], least: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs of scans (i < j) whose correlation is at least ``least``, the best over mirrored views.

    Args:
        thumbnails: for each scan one per channel; all of one shape. Channels are averaged.
        least: correlation.

    Yields:
        Both positions and the correlation. Memory: the thumbnails and ``_CHUNK`` rows of the matrix.
    """
    if len(thumbnails) < 2:
        return
    stack = np.array(thumbnails, dtype=np.float32)  # (N, C, *cells)
    stack /= np.sqrt(stack.shape[1])
    flat = stack.reshape(len(stack), -1)
    for start in range(0, len(flat), _CHUNK):
        rows = flat[start : start + _CHUNK]
        best = np.full((len(rows), len(flat) - start), -1.0, dtype=np.float32)
        for view in _views(stack[start:]):  # left of ``start`` all pairs are done
            np.maximum(best, rows @ view.reshape(len(view), -1).T, out=best)
        for row, column in zip(*np.nonzero(best >= least), strict=True):
            if row < column:
                yield start + int(row), start + int(column), min(float(best[row, column]), 1.0)


def _views(stack: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The eight mirrored views of a cube, or mirrored and turned ones of a square: (N, C, *cells)."""
    axes = range(2, stack.ndim)
    for chosen in itertools.chain.from_iterable(
        itertools.combinations(axes, n) for n in range(len(axes) + 1)
    ):
        mirrored = np.flip(stack, chosen)
        yield mirrored
        if stack.ndim == 4:
            yield np.swapaxes(mirrored, 2, 3)
