"""What the user says of a folder of scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.conversion.folder_words import plain
from nnunet_ssl.conversion.images import Axes, array_keys
from nnunet_ssl.errors import ConfigError, DataError

IMAGE_KEYS = ("image", "images", "img", "data", "scan", "volume", "raw")
LABEL_KEYS = ("label", "labels", "mask", "masks", "seg", "segmentation", "gt")


@dataclass(frozen=True)
class FolderOptions:
    """What the user says of a folder.

    Attributes:
        images: pattern of the files that are scans, when names do not tell.
        modality: of the DICOM series to take, such as ``CT``.
        masks: folder of the masks, or pattern of the files that are masks.
        mask_per_label: each mask file holds one label, which its name says.
        labels: ``NAME`` or ``NAME=VALUE`` each; for RTSTRUCT, DICOM-SEG and ``mask_per_label`` those to take.
        channels: names of the channels.
        image_key: array of scans in HDF5 and NumPy files.
        label_key: array of labels in them.
        axes: order of their axes.
        spacing: of their voxels, x, y, z in mm.
        gray: pictures with colours become gray.
        skip_orphans: leave out masks that fit no scan, and cases that lack structures.
        allow_missing: a structure that was not outlined is not there.

    Raises:
        ConfigError: ``mask_per_label`` without the names of labels, or with others than names.
    """

    images: str | None = None
    modality: str | None = None
    masks: str | None = None
    mask_per_label: bool = False
    labels: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    image_key: str | None = None
    label_key: str | None = None
    axes: Axes = "xyz"
    spacing: tuple[float, ...] = ()
    gray: bool = False
    skip_orphans: bool = False
    allow_missing: bool = False

    def __post_init__(self) -> None:
        if self.mask_per_label:
            _check_names(self.labels)

    @property
    def own_masks(self) -> dict[str, str]:
        """Labels that have mask files of their own, by their plain names; empty if masks hold all labels."""
        return {plain(name): name for name in self.labels} if self.mask_per_label else {}


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
    """Name of the label in an HDF5 or NumPy file; empty if there is none, or if masks are other files."""
    return "" if options.mask_per_label else _known(array_keys(path), options.label_key, LABEL_KEYS)


def _check_names(labels: Sequence[str]) -> None:
    if not labels:
        raise ConfigError(
            "--mask-per-label: expected the names of the masks to take, in the order of their values, got "
            "none. Add them, such as --labels liver spleen."
        )
    for label in labels:
        if "=" in label or plain(label) in ("", "background"):
            raise ConfigError(
                f"--labels: expected names of masks, got '{label}'. With --mask-per-label they are numbered "
                "1, 2, ... in the order given, and the background is what no mask covers."
            )
    if len({plain(label) for label in labels}) < len(labels):
        raise ConfigError(f"--labels: {', '.join(labels)} names a mask twice. Name each once.")


def _known(keys: Sequence[str], wanted: str | None, usual: Sequence[str]) -> str:
    if wanted is not None:
        return wanted if wanted in keys else ""
    return next((key for name in usual for key in keys if key.lower() == name), "")
