"""Overlap and surface distances of two binary masks, as semi-supervised papers report them.

The definitions are MedPy's ``dc``, ``jc``, ``hd95`` and ``asd``. They are computed with SciPy, which nnU-Net
brings along: MedPy is GPL, ships no wheel and leans on a private module of SciPy. A test compares the two
wherever MedPy is installed.

The surface of a mask is the voxels of it that touch the background, or the border of the array, with a face.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

METRICS = ("Dice", "Jaccard", "HD95", "ASD")

Mask = NDArray[np.bool_]


def dice(prediction: Mask, reference: Mask) -> float:
    """Dice coefficient ``2 |P & R| / (|P| + |R|)``; NaN if both masks are empty, as in nnU-Net.

    Raises:
        ValueError: the masks differ in shape.
    """
    _check_shapes(prediction, reference)
    return _ratio(2 * np.count_nonzero(prediction & reference), prediction.sum() + reference.sum())


def jaccard(prediction: Mask, reference: Mask) -> float:
    """Jaccard index ``|P & R| / |P | R|``; NaN if both masks are empty.

    Raises:
        ValueError: the masks differ in shape.
    """
    _check_shapes(prediction, reference)
    return _ratio(np.count_nonzero(prediction & reference), np.count_nonzero(prediction | reference))


def scores(prediction: Mask, reference: Mask, spacing: Sequence[float] | None = None) -> dict[str, float]:
    """All of ``METRICS`` at once, with each distance transform computed once.

    HD95 is the 95th percentile of the distances from each surface to the other, both directions pooled. ASD
    is the mean distance from the surface of the prediction to that of the reference; swapping the masks
    changes it.

    Args:
        prediction: mask of any dimension.
        reference: mask of the same shape.
        spacing: size of a voxel along each axis; ``None`` measures in voxels.

    Returns:
        Distances in the unit of ``spacing``, NaN if a mask is empty; overlaps as ``dice`` and ``jaccard``.

    Raises:
        ValueError: the masks differ in shape, or ``spacing`` has not one entry for each axis.
    """
    to_reference, to_prediction = _both_directions(prediction, reference, spacing)
    return {
        "Dice": dice(prediction, reference),
        "Jaccard": jaccard(prediction, reference),
        "HD95": _hd95(to_reference, to_prediction),
        "ASD": _mean(to_reference),
    }


def surface(mask: Mask) -> Mask:
    """Voxels of ``mask`` with a face towards the background or the border of the array; same shape."""
    return mask & ~binary_erosion(mask)


def _both_directions(
    prediction: Mask, reference: Mask, spacing: Sequence[float] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances of the prediction's surface voxels to the reference's surface, and the other way round."""
    _check_shapes(prediction, reference)
    if spacing is not None and len(spacing) != prediction.ndim:
        raise ValueError(
            f"Expected a spacing of {prediction.ndim} entries, one for each axis, got {tuple(spacing)}."
        )
    if not (prediction.any() and reference.any()):
        return np.empty(0), np.empty(0)
    # Everything outside the common bounding box is background of both, so nothing is lost by leaving it out,
    # and the distance transform costs what the organ measures, not the scan.
    box = _bounding_box(prediction | reference)
    p, r = surface(prediction[box]), surface(reference[box])
    return distance_transform_edt(~r, sampling=spacing)[p], distance_transform_edt(~p, sampling=spacing)[r]


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Slices of the smallest box that holds all of ``mask``, which is not empty."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        indices = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(indices[0]), int(indices[-1]) + 1))
    return tuple(box)


def _hd95(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.percentile(np.concatenate((one, other)), 95)) if one.size else float("nan")


def _mean(distances: NDArray[np.float64]) -> float:
    return float(distances.mean()) if distances.size else float("nan")


def _ratio(numerator: np.integer | int, denominator: np.integer | int) -> float:
    return float(numerator / denominator) if denominator else float("nan")


def _check_shapes(prediction: Mask, reference: Mask) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(f"Expected masks of one shape, got {prediction.shape} and {reference.shape}.")
