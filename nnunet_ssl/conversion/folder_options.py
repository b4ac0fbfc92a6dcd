"""What the user says of a folder of scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.conversion.images import Axes, array_keys
from nnunet_ssl.errors import DataError

IMAGE_KEYS = ("image", "images", "img", "data", "scan", "volume", "raw")
LABEL_KEYS = ("label", "labels", "mask", "masks", "seg", "segmentation", "gt")


@dataclass(frozen=True)
class FolderOptions:
    """What the user says of a folder.

    Attributes:
        images: pattern of the files that are scans, when names do not tell.
        modality: of the DICOM series to take, such as ``CT``.
        masks: folder of the masks, or pattern of the files that are masks.
        labels: ``NAME`` or ``NAME=VALUE`` each; for RTSTRUCT and DICOM-SEG the structures to take.
        channels: names of the channels.
        image_key: array of scans in HDF5 and NumPy files.
        label_key: array of labels in them.
        axes: order of their axes.
        spacing: of their voxels, x, y, z in mm.
        gray: pictures with colours become gray.
        skip_orphans: leave out masks that fit no scan, and cases that lack structures.
        allow_missing: a structure that was not outlined is not there.
    """

    images: str | None = None
    modality: str | None = None
    masks: str | None = None
    labels: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    image_key: str | None = None
    label_key: str | None = None
    axes: Axes = "xyz"
    spacing: tuple[float, ...] = ()
    gray: bool = False
    skip_orphans: bool = False
    allow_missing: bool = False


def image_key(path: Path, options: FolderOptions) -> str:
    """Name of the scan in an HDF5 or NumPy file.

    Raises:
        DataError: the file holds no array of the name given, or of a usual name.
    """
    keys = array_keys(path)
    if found := _known(keys, options.image_key, IMAGE_KEYS):
        return found
    raise DataError(
        f"{path} holds {', '.join(keys) or 'nothing'}: expected an array "
        f"'{options.image_key or IMAGE_KEYS[0]}'. Name it with --image-key."
    )


def label_key(path: Path, options: FolderOptions) -> str:
    """Name of the label in an HDF5 or NumPy file; empty if there is none."""
    return _known(array_keys(path), options.label_key, LABEL_KEYS)


def _known(keys: Sequence[str], wanted: str | None, usual: Sequence[str]) -> str:
    if wanted is not None:
        return wanted if wanted in keys else ""
    return next((key for name in usual for key in keys if key.lower() == name), "")
