"""Match masks with scans by their names.

Understood are: a folder of masks beside a folder of scans, with the same names; masks beside scans, whose
names say so (``case_mask``, ``case-seg``, ``case.label``, ``label0001`` beside ``img0001``, ``gt``,
``annotation``, ``roi``); one folder for each case; several parts of one mask (``case_mask``,
``case_mask_1``); channels (``case_0000``, ``case_0001``, unlike running numbers); nnU-Net's own folders.
Where the user says that each mask holds one label, its name also says which, and this after the case's name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.conversion.cases import Subset, sanitized
from nnunet_ssl.conversion.folder_match import Scans
from nnunet_ssl.conversion.folder_scan import Item
from nnunet_ssl.conversion.folder_words import Key, is_test, key_of, numbered, part_of, scan_number
from nnunet_ssl.conversion.images import stem_of
from nnunet_ssl.errors import DataError, few

_PER_LABEL = (
    "If each is the mask of one structure, add --mask-per-label and name those to take, as in --labels liver "
    "spleen."
)


@dataclass(frozen=True)
class Pair:
    """A scan with its masks.

    Attributes:
        identifier: what the case will be called.
        images: one item per channel.
        masks: parts of one mask, or masks of one label each; empty for a bare scan.
        subset: where it goes.
    """

    identifier: str
    images: tuple[Item, ...]
    masks: tuple[Item, ...]
    subset: Subset


def pair(
    scans: Sequence[Item],
    masks: Sequence[Item],
    scan_root: Path,
    mask_root: Path,
    skip_orphans: bool = False,
    labels: Mapping[str, str] | None = None,
) -> list[Pair]:
    """Match masks with scans.

    Args:
        scans: files and series of scans.
        masks: files of masks.
        scan_root: folder that the scans were found in.
        mask_root: folder that the masks were found in.
        skip_orphans: leave out masks that fit no scan.
        labels: those that are wanted, by their plain names, where each mask holds one; masks of others that
            fit no scan are left out.

    Raises:
        DataError: a mask fits no scan or several, or a scan has several masks that are no parts of one, or
            are of one label.
    """
    labels = labels or {}
    known = Scans.of(scans, masks, scan_root, mask_root)
    groups = known.groups
    found: dict[Key, list[Item]] = defaultdict(list)
    orphans = []
    for item in masks:
        key, mask = known.match(item, mask_root, labels)
        if key is not None:
            found[key].append(mask)
        elif not mask.label or mask.label in labels.values():
            orphans.append(mask)
    _place_alone(orphans, found, groups, mask_root)
    if orphans and not skip_orphans:
        raise DataError(_orphan_report(orphans, groups, bool(labels)))
    for key, several in found.items():
        _check_parts(groups[key], [mask for mask in several if not mask.label])
        _check_labels(groups[key], [mask for mask in several if mask.label in labels.values()])
    names = _identifiers(groups)
    return [
        Pair(names[key], tuple(items), tuple(found.get(key, ())), _subset(items[0], key, found, scan_root))
        for key, items in groups.items()
    ]


def masks_among(
    scans: Sequence[Item],
    masks: Sequence[Item],
    scan_root: Path,
    mask_root: Path,
    labels: Mapping[str, str],
) -> set[Item]:
    """Of what was taken for scans, masks of labels that are not wanted, where each mask holds one label.

    Those are called after another scan, as ``P1_aorta`` beside ``P1``, or lie in its folder, as ``aorta``
    beside ``ct``.
    """
    known = Scans.of(scans, masks, scan_root, mask_root)
    found = set()
    for key, items in known.groups.items():
        other, item = known.match(items[0], scan_root, labels)
        if len(items) == 1 and other not in (None, key) and any(map(str.isalpha, item.label)):
            found.add(items[0])
    return found


def _place_alone(
    orphans: list[Item],
    found: Mapping[Key, list[Item]],
    groups: Mapping[Key, Sequence[Item]],
    root: Path,
) -> None:
    """One folder for each case: the only mask there belongs to the only scan there, whatever their names."""
    scans, masks = defaultdict(list), defaultdict(list)
    for key in groups:
        scans[key[0]].append(key)
    for mask in orphans:
        if not mask.series:  # else it names its scan, which is another one
            masks[key_of(mask, root)[0]].append(mask)
    for folders, alone in masks.items():
        if folders and len(alone) == 1 and len(scans[folders]) == 1 and not found.get(scans[folders][0]):
            found[scans[folders][0]].append(alone[0])
            orphans.remove(alone[0])


def _orphan_report(
    orphans: Sequence[Item], groups: Mapping[Key, Sequence[Item]], mask_per_label: bool
) -> str:
    if strays := [f"{mask.path} (series {mask.series})" for mask in orphans if mask.series]:
        return (
            f"{len(strays)} mask(s) outline a DICOM series that is not here or was not chosen: "
            f"{few(strays, 3)}. Add the series, choose other scans or masks, or leave these out with "
            "--skip-errors."
        )
    shown = few(mask.path for mask in orphans)
    scans = few((items[0].path for items in groups.values()), 3) or "none"
    counted = any(numbered(key[1]) for key in groups)
    hint = "Channels of a scan count from _0000 without a gap. " if counted else ""
    like = "same name in a folder of masks, or NAME_mask beside NAME"
    if mask_per_label:
        like = "NAME_LABEL beside NAME or among masks, or LABEL in a folder NAME or in that of the scan"
    return (
        f"{len(orphans)} mask(s) fit no scan: {shown}. Scans are, for instance, {scans}. {hint}Name masks "
        f"like their scans ({like}), say with --images and --masks which files are which, or leave these out "
        f"with --skip-errors.{f' {_PER_LABEL}' if len(orphans) > 1 and not mask_per_label else ''}"
    )


def _check_parts(scan: Sequence[Item], masks: Sequence[Item]) -> None:
    if len(masks) < 2:
        return
    parts = [part_of(stem_of(mask.path)) for mask in masks]
    if len({base for base, _ in parts}) > 1 or sum(is_part for _, is_part in parts) < len(masks) - 1:
        first = scan[0].path
        renumber = f" If the numbers are those of scans, not of channels, give {first.name} another one."
        raise DataError(
            f"{first} has several masks: {few(mask.path for mask in masks)}. Leave one, number the parts "
            f"(NAME_mask_1, NAME_mask_2), or say with --masks which files are the masks. {_PER_LABEL}"
            f"{renumber if len(scan) > 1 else ''}"
        )


def _check_labels(scan: Sequence[Item], masks: Sequence[Item]) -> None:
    files: dict[str, list[Path]] = defaultdict(list)
    for mask in masks:
        files[mask.label].append(mask.path)
    for label, paths in files.items():
        if len(paths) > 1:
            raise DataError(
                f"{scan[0].path} has several masks of {label}: {few(paths)}. Expected one: remove or rename "
                "the others, or say with --masks which files are the masks."
            )


def _identifiers(groups: Mapping[Key, Sequence[Item]]) -> dict[Key, str]:
    """Short names where they are unique, else with the folders before them."""
    short = {key: key[1].split("#")[0] for key in groups}
    counts = Counter(sanitized(name).lower() for name in short.values())
    names: dict[Key, str] = {}
    taken: Counter[str] = Counter()
    for key, name in short.items():
        says_scan = scan_number(name) is not None
        generic = counts[sanitized(name).lower()] > 1 or (key[0] and says_scan)
        full = sanitized("_".join((*key[0], name))) if generic else sanitized(name)
        if generic and says_scan and len(groups) == len({k[0] for k in groups}):
            full = sanitized("_".join(key[0]))  # patient01/image.nii.gz
        taken[full] += 1
        names[key] = full if taken[full] == 1 else f"{full}_{taken[full]}"
    return names


def _subset(scan: Item, key: Key, found: Mapping[Key, Sequence[Item]], root: Path) -> Subset:
    if is_test(scan.path, root):
        return "test"
    return "train" if found.get(key) else "unlabeled"
