"""Label maps from mask files that hold one label each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import SimpleITK as sitk

from nnunet_ssl.conversion.geometry import Grid, same_grid
from nnunet_ssl.conversion.images import JPEG, ending_of, read_mask
from nnunet_ssl.errors import DataError, few


def read_masks(
    masks: Sequence[tuple[str, Path]],
    names: Sequence[str],
    allow_missing: bool = False,
    above: float = 0,
) -> sitk.Image:
    """Label map of a scan: the mask of ``names[k]`` gets the value ``k + 1``; later ones win in overlaps.

    Args:
        masks: label and file of each, at least one; that of another label only says where the voxels lie.
        names: labels in the order of their values.
        allow_missing: a label without a mask is not there.
        above: what is no background in JPEG files, whose edges are blurred; elsewhere it is all but 0.

    Raises:
        DataError: a label has no mask, or the masks do not lie on the same voxels.
    """
    held = [name for name, _ in masks]
    missing = [name for name in names if name not in held]
    if missing and not allow_missing:
        raise DataError(
            f"{few(path for _, path in masks)}: expected masks of {', '.join(names)}, found none of "
            f"{', '.join(missing)}. Add it, or --allow-missing-labels if this patient is really without."
        )
    values = {name: value for value, name in enumerate(names, start=1)}
    label = _layer(masks[0], values, above)
    for mask in masks[1:]:
        layer = _layer(mask, values, above)
        if not same_grid(Grid.of(layer), Grid.of(label)):
            raise DataError(
                f"{mask[1]} has {Grid.of(layer)}, but {masks[0][1]} has {Grid.of(label)}. Expected all masks "
                "of a scan on the same voxels: export them again, or resample them to the scan."
            )
        layer.CopyInformation(label)
        label = sitk.Maximum(label, layer)
    return label


def _layer(mask: tuple[str, Path], values: Mapping[str, int], above: float) -> sitk.Image:
    name, path = mask
    covered = read_mask([path], above if ending_of(path) in JPEG else 0)
    return sitk.Cast(covered, sitk.sitkUInt16) * values.get(name, 0)
