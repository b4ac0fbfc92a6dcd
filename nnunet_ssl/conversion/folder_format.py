"""Which files a folder of scans becomes: their type, and the names of their channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from nnunet_ssl.conversion.folder_names import Pair
from nnunet_ssl.conversion.folder_options import FolderOptions
from nnunet_ssl.conversion.geometry import grid_of_file
from nnunet_ssl.conversion.images import READ_BY_NNUNET, ending_of, read_file, read_picture
from nnunet_ssl.errors import DataError, few

_HOUNSFIELD = -200  # no other modality has such values as a rule


def plan_format(pairs: Sequence[Pair], options: FolderOptions) -> tuple[str, bool, str]:
    """File ending of the dataset, whether pictures become gray, and a note.

    Raises:
        DataError: pictures lie among volumes.
    """
    items = [item for one in pairs for item in one.images]
    flat = [item for item in items if item.kind == "picture"]
    if flat and len(flat) < len(items):
        raise DataError(
            f"{len(flat)} pictures ({few((i.path.name for i in flat), 3)}) lie among "
            f"{len(items) - len(flat)} volumes: a dataset is either two- or three-dimensional. "
            "Convert them apart, or name the scans with --images."
        )
    if flat:
        coloured = sum(_components(item.path) == 3 for item in flat)
        gray = options.gray or coloured < len(flat)
        note = f"{coloured} of {len(flat)} pictures have colours: made gray." if gray and coloured else ""
        return ".png", gray, note
    endings = {ending_of(item.path) if item.kind == "volume" else "" for item in items}
    if len(endings) == 1 and (only := endings.pop()) in READ_BY_NNUNET:
        return only, True, ""
    return ".nii.gz", True, ""


def plan_channels(pairs: Sequence[Pair], options: FolderOptions, gray: bool) -> tuple[tuple[str, ...], str]:
    """Names of the channels, and a note on what they mean.

    Raises:
        DataError: the user named another number of channels.
    """
    count = Counter(len(one.images) for one in pairs).most_common(1)[0][0] if gray else 3
    if options.channels:
        if len(options.channels) != count:
            raise DataError(f"--channels: expected {count} name(s), got {', '.join(options.channels)}.")
        return options.channels, ""
    if not gray:
        return ("R", "G", "B"), ""
    if count > 1:
        return tuple(f"channel{i}" for i in range(count)), "Name the channels with --channels."
    return _only_channel(pairs)


def _only_channel(pairs: Sequence[Pair]) -> tuple[tuple[str, ...], str]:
    modalities = {item.modality for one in pairs for item in one.images if item.modality}
    if modalities == {"CT"}:
        return ("CT",), "Named the channel CT: nnU-Net normalises by Hounsfield units."
    if len(modalities) == 1:
        return (modalities.pop(),), ""
    volumes = [one.images[0].path for one in pairs if one.images[0].kind == "volume"]
    lowest = _lowest_value(volumes)
    if lowest is not None and lowest < _HOUNSFIELD:
        return ("CT",), (
            f"Named the channel CT since values go down to {lowest:.0f}: nnU-Net normalises by Hounsfield "
            "units. If it is no CT, give another name with --channels."
        )
    if pairs[0].images[0].kind == "picture":
        return ("image",), ""
    return ("image",), "If these are CT scans, add --channels CT: nnU-Net normalises those otherwise."


def _lowest_value(volumes: Sequence[Path]) -> float | None:
    """Of the first volume that can be read; the others are told of when they are converted."""
    for path in volumes:
        try:
            return float(sitk.GetArrayFromImage(read_file(path)).min())  # a view would outlive the image
        except DataError:
            continue
    return None


def _components(path: Path) -> int:
    """Channels of a picture; one where three are all alike."""
    found = grid_of_file(path)
    if found is not None and found[1] == 1:
        return 1
    return int(read_picture(path, gray=False).GetNumberOfComponentsPerPixel())
