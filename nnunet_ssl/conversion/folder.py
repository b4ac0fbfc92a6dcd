"""Plan a dataset from a folder of scans, with or without masks."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nnunet_ssl.conversion.cases import Case, Source, sanitized
from nnunet_ssl.conversion.dataset_plan import DatasetPlan
from nnunet_ssl.conversion.dicom import read_series
from nnunet_ssl.conversion.dicom_masks import read_structures
from nnunet_ssl.conversion.folder_format import plan_channels, plan_format
from nnunet_ssl.conversion.folder_labels import LabelPlan, plan_labels
from nnunet_ssl.conversion.folder_names import Pair, masks_among, pair
from nnunet_ssl.conversion.folder_options import FolderOptions, image_key, label_key
from nnunet_ssl.conversion.folder_scan import Item, items_in
from nnunet_ssl.conversion.folder_words import is_mask_name, names_label
from nnunet_ssl.conversion.images import PICTURES, ending_of, read_array, read_mask
from nnunet_ssl.conversion.mask_files import read_masks
from nnunet_ssl.errors import DataError, few


@dataclass(frozen=True)
class FolderPlan:
    """A plan, and what the user should know of it.

    Attributes:
        plan: what to write.
        notes: sentences on what was assumed.
    """

    plan: DatasetPlan
    notes: Sequence[str]


def plan_folder(folder: Path, dataset: str, options: FolderOptions, processes: int = 1) -> FolderPlan:
    """Plan the dataset that a folder makes.

    Raises:
        DataError: there are no scans, masks fit none of them, or their values contradict the labels named.
    """
    folder = folder.resolve()
    items, unknown = items_in(folder)
    roles = _roles(folder, items, options)
    if not roles.scans:
        raise DataError(
            f"{folder} holds no scan that can be read ({len(roles.masks)} files taken for masks, "
            f"{len(unknown)} files of other kinds). Say with --images and --masks which files are which."
        )
    pairs = _pairs(roles, folder, options)
    notes = [*_unmatched(roles, pairs, options), *_left_out("neither scans nor masks", unknown)]
    ending, gray, note = plan_format(pairs, options)
    labels = plan_labels(pairs, options, processes)
    channels, channel_note = plan_channels(pairs, options, gray)
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
    return FolderPlan(plan, [n for n in (*notes, note, channel_note, *labels.notes) if n])


def scans_of(folder: Path, options: FolderOptions) -> tuple[list[Case], list[str]]:
    """The scans of a folder as unlabelled cases, and sentences on what was left out, such as masks.

    Raises:
        DataError: there are none.
    """
    folder = folder.resolve()
    items, unknown = items_in(folder)
    roles = _roles(folder, items, options)
    if not roles.scans:
        raise DataError(f"{folder} holds no scan that can be read.")
    pairs = pair(roles.scans, (), folder, folder)
    cases = [
        Case(sanitized(p.identifier), [_image(item, options) for item in p.images], None, "unlabeled")
        for p in pairs
    ]
    left_out = _left_out("masks", [mask.path for mask in (*roles.masks, *roles.others)])
    return cases, [*left_out, *_left_out("neither scans nor masks", unknown)]


def _left_out(what: str, paths: Sequence[Path]) -> list[str]:
    names = few((path.name for path in paths), 3)
    return [f"Left out, {what}: {len(paths)} file(s), {names}."] if paths else []


def _unmatched(roles: _Roles, pairs: Sequence[Pair], options: FolderOptions) -> list[str]:
    used = {mask.path for one in pairs for mask in one.masks}
    masks = [mask.path for mask in roles.masks if mask.path not in used]
    what = f"masks that fit no scan{' or name no label' if options.mask_per_label else ''}"
    others = sorted(item.path for item in roles.others)
    return [
        *_left_out(what, masks),
        *_left_out("taken for masks of other labels (are they scans? Say so with --images)", others),
    ]


class _Roles(NamedTuple):
    """What is what in a folder.

    Attributes:
        mask_root: folder that the masks were found in.
        scans: files and series of scans.
        masks: files of masks.
        others: files that seem to be scans, but are masks of labels that are not wanted.
    """

    mask_root: Path
    scans: list[Item]
    masks: list[Item]
    others: set[Item]


def _roles(folder: Path, items: Sequence[Item], options: FolderOptions) -> _Roles:
    mask_root = folder
    if options.masks is not None and (own := _folder_of(options.masks, folder)) is not None:
        mask_root = own
        masks = items_in(mask_root)[0]
    elif options.masks is not None:
        masks = [item for item in items if _fits(item, folder, options.masks)]
        if not masks:
            raise DataError(f"--masks: '{options.masks}' is no folder, and no file in {folder} fits it.")
    else:
        masks = [item for item in items if _is_mask(item, folder, options)]
    taken = {item.path for item in masks}
    scans = [item for item in items if item.path not in taken]
    if options.images is not None:
        scans = [item for item in scans if _fits(item, folder, options.images)]
    scans = [item for item in scans if item.kind not in ("rtstruct", "seg")]
    scans = _of_one_modality(scans, options.modality)
    others: set[Item] = set()
    if options.mask_per_label and options.images is None:
        others = masks_among(scans, masks, folder, mask_root, options.own_masks)
    return _Roles(mask_root, [scan for scan in scans if scan not in others], masks, others)


def _of_one_modality(scans: Sequence[Item], wanted: str | None) -> list[Item]:
    counts = Counter(item.modality for item in scans if item.kind == "series")
    if wanted is None and len(counts) > 1:
        shown = ", ".join(f"{modality or 'unknown'} ({n})" for modality, n in sorted(counts.items()))
        raise DataError(f"DICOM series of several modalities lie here: {shown}. Choose one with --modality.")
    return [s for s in scans if wanted is None or s.kind != "series" or s.modality == wanted.upper()]


def _folder_of(text: str, folder: Path) -> Path | None:
    for candidate in (Path(text), folder / text):
        if candidate.is_dir():
            return candidate.resolve()
    return None


def _is_mask(item: Item, folder: Path, options: FolderOptions) -> bool:
    if item.kind in ("rtstruct", "seg"):
        return True
    return item.kind in ("volume", "picture") and (
        is_mask_name(item.path, folder) or names_label(item, folder, options.own_masks)
    )


def _fits(item: Item, folder: Path, pattern: str) -> bool:
    name = item.path.relative_to(folder).as_posix() if item.path.is_relative_to(folder) else item.path.name
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(item.path.name, pattern)


def _pairs(roles: _Roles, folder: Path, options: FolderOptions) -> list[Pair]:
    pairs = pair(roles.scans, roles.masks, folder, roles.mask_root, options.skip_orphans, options.own_masks)
    return [
        replace(one, subset="train") if one.subset == "unlabeled" and _holds_label(one, options) else one
        for one in pairs
    ]


def _holds_label(one: Pair, options: FolderOptions) -> bool:
    return one.images[0].kind == "array" and bool(label_key(one.images[0].path, options))


def _case(one: Pair, labels: LabelPlan, options: FolderOptions) -> Case:
    images = [_image(item, options) for item in one.images]
    label = None if one.subset == "unlabeled" else _label(one, labels, options)
    return Case(sanitized(one.identifier), images, label, one.subset)


def _image(item: Item, options: FolderOptions) -> Source:
    if item.kind == "series":
        return partial(read_series, item.whole)
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
    if one.masks[0].label:
        return partial(
            read_masks, _labelled(one.masks, labels.names), labels.names, options.allow_missing, labels.above
        )
    kind, files = one.masks[0].kind, tuple(mask.path for mask in one.masks)
    if kind in ("rtstruct", "seg"):
        scan = one.images[0].whole
        return partial(read_structures, kind, files, scan, labels.names, options.allow_missing)
    if kind == "series":
        return partial(read_series, one.masks[0].whole)
    if len(files) > 1:
        return partial(read_mask, files, labels.above)
    if labels.above and ending_of(files[0]) in PICTURES:
        return partial(read_mask, files, labels.above)
    return files[0]


def _labelled(masks: Sequence[Item], names: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """Label and file of the masks that are wanted; if there is none, of another one, for its voxels."""
    wanted = [mask for name in names for mask in masks if mask.label == name] or masks[:1]
    return tuple((mask.label, mask.path) for mask in wanted)
