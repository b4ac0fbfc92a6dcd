"""Plan a dataset from a folder of scans, with or without masks."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case, Source, sanitized
from nnunet_ssl.conversion.dataset_plan import DatasetPlan
from nnunet_ssl.conversion.dicom import read_series
from nnunet_ssl.conversion.dicom_masks import read_structures
from nnunet_ssl.conversion.folder_labels import LabelPlan, plan_labels
from nnunet_ssl.conversion.folder_names import Pair, is_mask_name, pair
from nnunet_ssl.conversion.folder_options import FolderOptions, image_key, label_key
from nnunet_ssl.conversion.folder_scan import Item, items_in
from nnunet_ssl.conversion.geometry import grid_of_file
from nnunet_ssl.conversion.images import (
    PICTURES,
    READ_BY_NNUNET,
    ending_of,
    read_array,
    read_file,
    read_mask,
    read_picture,
)
from nnunet_ssl.errors import DataError

_HOUNSFIELD = -200  # no other modality has such values as a rule


@dataclass(frozen=True)
class FolderPlan:
    """A plan, and what the user should know of it.

    Attributes:
        plan: what to write.
        pairs: scans with their masks, in the order of the plan's cases.
        notes: sentences on what was assumed.
    """

    plan: DatasetPlan
    pairs: Sequence[Pair]
    notes: Sequence[str]


def plan_folder(folder: Path, dataset: str, options: FolderOptions, processes: int = 1) -> FolderPlan:
    """Plan the dataset that a folder makes.

    Raises:
        DataError: there are no scans, masks fit none of them, or their values contradict the labels named.
    """
    folder = folder.resolve()
    items, unknown = items_in(folder)
    mask_root, scans, masks = _roles(folder, items, options)
    if not scans:
        raise DataError(f"{folder} holds no scan that can be read ({len(unknown)} files of other kinds).")
    pairs = _pairs(scans, masks, folder, mask_root, options)
    notes = [f"{len(unknown)} files are neither scans nor masks: {_few(unknown)}"] if unknown else []
    ending, gray, note = _format(pairs, options)
    labels = plan_labels(pairs, options, processes)
    channels, channel_note = _channels(pairs, options, gray)
    cases = [_case(one, labels, options) for one in pairs]
    plan = DatasetPlan(
        name=dataset,
        origin="folder",
        cases=cases,
        channels=channels,
        labels=labels.labels,
        file_ending=ending,
        values=labels.values,
        gray=gray,
    )
    return FolderPlan(plan, pairs, [n for n in (*notes, note, channel_note, *labels.notes) if n])


def scans_of(folder: Path, options: FolderOptions) -> list[Case]:
    """The scans of a folder as unlabelled cases; masks are left out.

    Raises:
        DataError: there are none.
    """
    folder = folder.resolve()
    _, scans, _ = _roles(folder, items_in(folder)[0], options)
    if not scans:
        raise DataError(f"{folder} holds no scan that can be read.")
    pairs = pair(scans, (), folder, folder)
    return [
        Case(sanitized(p.identifier), [_image(item, options) for item in p.images], None, "unlabeled")
        for p in pairs
    ]


def plan_rows(planned: FolderPlan) -> list[tuple[str, str, str, str, str]]:
    """Rows of case, folder, source of the images, source of the label, and what is done."""
    ending = planned.plan.file_ending
    folders = {"train": "imagesTr", "unlabeled": "imagesUn", "test": "imagesTs"}
    rows = []
    for one in planned.pairs:
        linked = all(
            item.kind in ("volume", "picture") and ending_of(item.path) == ending for item in one.images
        )
        rows.append(
            (
                one.identifier,
                folders[one.subset],
                ", ".join(item.path.name for item in one.images),
                ", ".join(item.path.name for item in one.masks) or _array_label(one, planned),
                "link" if linked else "convert",
            )
        )
    return rows


def _array_label(one: Pair, planned: FolderPlan) -> str:
    return "(in the file)" if one.images[0].kind == "array" and one.subset == "train" else "-"


def _roles(
    folder: Path, items: Sequence[Item], options: FolderOptions
) -> tuple[Path, list[Item], list[Item]]:
    """Where the masks lie, the scans, and the masks."""
    mask_root = folder
    if options.masks is not None and (own := _folder_of(options.masks, folder)) is not None:
        mask_root = own
        masks = items_in(mask_root)[0]
        inside = {item.path for item in masks}
        scans = [item for item in items if item.path not in inside]
    elif options.masks is not None:
        masks = [item for item in items if _fits(item, folder, options.masks)]
        if not masks:
            raise DataError(f"--masks: '{options.masks}' is no folder, and no file in {folder} fits it.")
        scans = [item for item in items if item not in masks]
    else:
        masks = [item for item in items if _is_mask(item, folder)]
        scans = [item for item in items if item not in masks]
    if options.images is not None:
        scans = [item for item in scans if _fits(item, folder, options.images)]
    return mask_root, [s for s in scans if s.kind not in ("rtstruct", "seg")], masks


def _folder_of(text: str, folder: Path) -> Path | None:
    for candidate in (Path(text), folder / text):
        if candidate.is_dir():
            return candidate.resolve()
    return None


def _is_mask(item: Item, folder: Path) -> bool:
    if item.kind in ("rtstruct", "seg"):
        return True
    return item.kind in ("volume", "picture") and is_mask_name(item.path, folder)


def _fits(item: Item, folder: Path, pattern: str) -> bool:
    name = item.path.relative_to(folder).as_posix() if item.path.is_relative_to(folder) else item.path.name
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(item.path.name, pattern)


def _pairs(
    scans: Sequence[Item], masks: Sequence[Item], folder: Path, mask_root: Path, options: FolderOptions
) -> list[Pair]:
    pairs = pair(scans, masks, folder, mask_root, options.skip_orphans)
    return [
        replace(one, subset="train") if one.subset == "unlabeled" and _holds_label(one, options) else one
        for one in pairs
    ]


def _holds_label(one: Pair, options: FolderOptions) -> bool:
    return one.images[0].kind == "array" and bool(label_key(one.images[0].path, options))


def _format(pairs: Sequence[Pair], options: FolderOptions) -> tuple[str, bool, str]:
    """File ending of the dataset, whether pictures become gray, and a note."""
    items = [item for one in pairs for item in one.images]
    flat = [item for item in items if item.kind == "picture"]
    if flat and len(flat) < len(items):
        raise DataError(
            f"{len(flat)} pictures ({_few([i.path for i in flat])}) lie among {len(items) - len(flat)} "
            "volumes: a dataset is either two- or three-dimensional. Convert them apart, or name the scans "
            "with --images."
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


def _components(path: Path) -> int:
    """Channels of a picture; one where three are all alike."""
    found = grid_of_file(path)
    if found is not None and found[1] == 1:
        return 1
    return int(read_picture(path, gray=False).GetNumberOfComponentsPerPixel())


def _channels(pairs: Sequence[Pair], options: FolderOptions, gray: bool) -> tuple[tuple[str, ...], str]:
    """Names of the channels, and a note on what they mean."""
    count = Counter(len(one.images) for one in pairs).most_common(1)[0][0] if gray else 3
    if options.channels:
        if len(options.channels) != count:
            raise DataError(f"--channels: expected {count} name(s), got {', '.join(options.channels)}.")
        return options.channels, ""
    if not gray:
        return ("R", "G", "B"), ""
    modalities = {item.modality for one in pairs for item in one.images if item.modality}
    if count == 1 and modalities == {"CT"}:
        return ("CT",), "Named the channel CT: nnU-Net normalises by Hounsfield units."
    if count == 1 and len(modalities) == 1:
        return (modalities.pop(),), ""
    if count == 1 and pairs[0].images[0].kind == "volume":
        lowest = float(np.min(sitk.GetArrayViewFromImage(read_file(pairs[0].images[0].path))))
        if lowest < _HOUNSFIELD:
            reason = f"values of {pairs[0].identifier} go down to {lowest:.0f}"
            return ("CT",), (
                f"Named the channel CT since {reason}: nnU-Net normalises by Hounsfield units. If it is no "
                "CT, give another name with --channels."
            )
    names = ("image",) if count == 1 else tuple(f"channel{i}" for i in range(count))
    return names, "If these are CT scans, add --channels CT: nnU-Net normalises those otherwise."


def _case(one: Pair, labels: LabelPlan, options: FolderOptions) -> Case:
    images = [_image(item, options) for item in one.images]
    label = None if one.subset == "unlabeled" else _label(one, labels, options)
    return Case(sanitized(one.identifier), images, label, one.subset)


def _image(item: Item, options: FolderOptions) -> Source:
    if item.kind == "series":
        return partial(read_series, item.path, item.series)
    if item.kind == "array":
        key = image_key(item.path, options)
        return partial(read_array, item.path, key, options.axes, options.spacing)
    return item.path


def _label(one: Pair, labels: LabelPlan, options: FolderOptions) -> Source | None:
    if not one.masks and one.images[0].kind == "array":
        file = one.images[0].path
        key = label_key(file, options)
        return partial(read_array, file, key, options.axes, options.spacing) if key else None
    if not one.masks:
        return None
    kind, files = one.masks[0].kind, tuple(mask.path for mask in one.masks)
    if kind in ("rtstruct", "seg"):
        scan = one.images[0]
        return partial(read_structures, kind, files, scan.path, scan.series, labels.names)
    if kind == "series":
        return partial(read_series, one.masks[0].path, one.masks[0].series)
    if len(files) > 1:
        return partial(read_mask, files, labels.above)
    if labels.above and ending_of(files[0]) in PICTURES:
        return partial(read_mask, files, labels.above)
    return files[0]


def _few(paths: Sequence[Path]) -> str:
    return ", ".join(p.name for p in paths[:3]) + (", ..." if len(paths) > 3 else "")
