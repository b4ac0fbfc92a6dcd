"""Match masks with scans by their names.

Understood are: a folder of masks beside a folder of scans, with the same names; masks beside scans, whose
names say so (``case_mask``, ``case-seg``, ``case.label``, ``label0001`` beside ``img0001``, ``gt``,
``annotation``, ``roi``); one folder for each case; several parts of one mask (``case_mask``,
``case_mask_1``); channels (``case_0000``, ``case_0001``, unlike running numbers); nnU-Net's own folders.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.conversion.cases import Subset, sanitized
from nnunet_ssl.conversion.folder_scan import Item
from nnunet_ssl.conversion.images import stem_of
from nnunet_ssl.errors import DataError, few

_WORD = (
    r"(?:masks?|segs?|segmentations?|labels?|labelmaps?|gt|ground[ _-]?truth|annotations?|rois?|contours?)"
)
_SCAN = r"(?:images?|imgs?|scans?|vol|volumes?|ct|mr|mri|us)"
_SUFFIX = re.compile(rf"(?P<base>.*?)(?:^|[ _.\-]+){_WORD}(?:[ _.\-]?(?P<part>\d{{1,2}}))?", re.IGNORECASE)
_PREFIX = re.compile(rf"{_WORD}(?:[ _.\-]+(?P<base>.*)|(?P<number>\d+))", re.IGNORECASE)
_SCAN_PREFIX = re.compile(rf"{_SCAN}(?:[ _.\-]*(?P<number>\d+))?", re.IGNORECASE)
_MASK_FOLDER = re.compile(rf"{_WORD}|labels(?:Tr|Ts|Va)", re.IGNORECASE)
_SCAN_FOLDER = re.compile(rf"{_SCAN}|images(?:Tr|Ts|Va|Un)|data|raw", re.IGNORECASE)
_TEST_FOLDER = re.compile(r"imagesTs|labelsTs", re.IGNORECASE)
_NUMBERED = re.compile(r"(?P<base>.+)_(?P<number>\d{4})")
_CHANNEL = re.compile(r"(?P<base>.+)_000\d")
_MOST_CHANNELS = 10

Key = tuple[tuple[str, ...], str]  # folders that are no roles, and a name


@dataclass(frozen=True)
class Pair:
    """A scan with its masks.

    Attributes:
        identifier: what the case will be called.
        images: one item per channel.
        masks: parts of one mask; empty for a bare scan.
        subset: where it goes.
    """

    identifier: str
    images: tuple[Item, ...]
    masks: tuple[Item, ...]
    subset: Subset


def is_mask_name(path: Path, root: Path) -> bool:
    """Whether a file's name, or that of a folder it lies in, says that it is a mask."""
    if any(_MASK_FOLDER.fullmatch(part) for part in _folders(path, root)):
        return True
    stem = stem_of(path)
    return bool(_SUFFIX.fullmatch(stem) or _PREFIX.fullmatch(stem))


def pair(
    scans: Sequence[Item], masks: Sequence[Item], scan_root: Path, mask_root: Path, skip_orphans: bool = False
) -> list[Pair]:
    """Match masks with scans.

    Args:
        scans: files and series of scans.
        masks: files of masks.
        scan_root: folder that the scans were found in.
        mask_root: folder that the masks were found in.
        skip_orphans: leave out masks that fit no scan.

    Raises:
        DataError: a mask fits no scan or several, or a scan has several masks that are no parts of one.
    """
    groups = _channels(scans, scan_root)
    index = _index(groups, scan_root)
    general = _in_all(groups) | _in_all(_key(mask, mask_root) for mask in masks)
    found: dict[Key, list[Item]] = defaultdict(list)
    orphans = []
    for mask in masks:
        key = _match(mask, index, groups, mask_root, general)
        if key is None:
            orphans.append(mask)
        else:
            found[key].append(mask)
    _place_alone(orphans, found, groups, mask_root)
    if orphans and not skip_orphans:
        raise DataError(_orphan_report(orphans, groups))
    for key, several in found.items():
        _check_parts(groups[key], several)
    names = _identifiers(groups)
    return [
        Pair(names[key], tuple(items), tuple(found.get(key, ())), _subset(items[0], key, found, scan_root))
        for key, items in groups.items()
    ]


def _channels(scans: Iterable[Item], root: Path) -> dict[Key, list[Item]]:
    """Scans by folders and name; channels of one scan are together."""
    named: dict[Key, list[Item]] = defaultdict(list)
    numbers: dict[Key, set[int]] = defaultdict(set)
    for scan in scans:
        key = _key(scan, root)
        named[key].append(scan)
        if match := _NUMBERED.fullmatch(key[1]):
            numbers[key[0], match["base"]].add(int(match["number"]))
    groups: dict[Key, list[Item]] = {}
    for key, items in sorted(named.items(), key=lambda entry: entry[0]):
        match = _NUMBERED.fullmatch(key[1])
        base = (key[0], match["base"]) if match else key
        if match and _are_channels(numbers[base]):
            items = [*named.get(base, ()), *items]
            groups.setdefault(base, []).extend(items)
        else:
            groups[key] = items
        if len(items) > 1:
            shown = few((item.path for item in items), 3)
            raise DataError(f"Several scans are called {key[1]}: {shown}. Rename or remove some.")
    return groups


def _are_channels(numbers: Iterable[int]) -> bool:
    """Whether files that differ in these numbers are channels: nnU-Net counts those from 0, without a gap.

    Others are running numbers of scans: ``amos_0001``, ``amos_0002``, ``scan_2019``.
    """
    found = sorted(numbers)
    return found == list(range(len(found))) and len(found) <= _MOST_CHANNELS


def _key(item: Item, root: Path) -> Key:
    folders = tuple(
        part
        for part in _folders(item.path, root)
        if not (_MASK_FOLDER.fullmatch(part) or _SCAN_FOLDER.fullmatch(part))
    )
    if item.kind != "series":
        return folders, stem_of(item.path)
    name = item.path.relative_to(root).name or "scan"
    return folders, f"{name}#{item.series}"


def _folders(path: Path, root: Path) -> tuple[str, ...]:
    return path.relative_to(root).parent.parts


def _index(groups: Mapping[Key, Sequence[Item]], root: Path) -> dict[Key, Key | None]:
    """Every name that a mask may use for a scan; ``None`` where several scans would answer to it."""
    index: dict[Key, Key | None] = {}
    for key in groups:
        folders, name = key[0], key[1].split("#")[0]
        names = {(folders, name), ((), name)}
        if key[1] != name:  # a series: masks may also lie in its directory
            names.add(((*folders, name), ""))
        if match := _SCAN_PREFIX.fullmatch(name):
            number = match["number"] or ""
            names |= {(folders, number)} | ({((), number)} if number else set())
        for alias in names:
            index[alias] = key if index.get(alias, key) == key else None
    return index


def _in_all(keys: Iterable[Key]) -> set[str]:
    """Folders that all of several files lie in, such as ``T2`` or ``outlines``: those name no patient."""
    several = [{*folders} for folders, _ in keys]
    return set.intersection(*several) if len(several) > 1 else set()


def _match(
    mask: Item,
    index: Mapping[Key, Key | None],
    groups: Mapping[Key, Sequence[Item]],
    root: Path,
    general: Container[str],
) -> Key | None:
    if mask.series:
        return next((key for key, items in groups.items() if items[0].series == mask.series), None)
    folders, stem = _key(mask, root)
    names = [stem, *_stripped(stem)]
    names += [m["base"] for name in list(names) if (m := _CHANNEL.fullmatch(name))]
    for where in (folders, ()):
        for name in names:
            key = index.get((where, name)) if name or where else None
            if key is not None and _may_share(folders, key[0], general):
                return key
    return None


def _may_share(mask: Sequence[str], scan: Sequence[str], general: Container[str]) -> bool:
    """Whether folders allow that a mask belongs to a scan of its name: not where each names a patient.

    ``masks/p1`` may belong to ``site/p1`` and ``outlines/P1/study`` to ``T2/P1/study``, ``P2/thorax`` not to
    ``P1/thorax``.
    """
    mine, theirs = ([part for part in folders if part not in general] for folders in (mask, scan))
    return not mine or not theirs or mine[-1] in theirs or theirs[-1] in mine


def _stripped(stem: str) -> list[str]:
    names = []
    if match := _SUFFIX.fullmatch(stem):
        names.append(match["base"])
    if match := _PREFIX.fullmatch(stem):
        names.append(match["base"] or match["number"] or "")
    return names


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
            masks[_key(mask, root)[0]].append(mask)
    for folders, alone in masks.items():
        if folders and len(alone) == 1 and len(scans[folders]) == 1 and not found.get(scans[folders][0]):
            found[scans[folders][0]].append(alone[0])
            orphans.remove(alone[0])


def _orphan_report(orphans: Sequence[Item], groups: Mapping[Key, Sequence[Item]]) -> str:
    if strays := [f"{mask.path} (series {mask.series})" for mask in orphans if mask.series]:
        return (
            f"{len(strays)} mask(s) outline a DICOM series that is not here or was not chosen: "
            f"{few(strays, 3)}. Add the series, choose other scans or masks, or leave these out with "
            "--skip-errors."
        )
    shown = few(mask.path for mask in orphans)
    scans = few((items[0].path for items in groups.values()), 3) or "none"
    numbered = any(_NUMBERED.fullmatch(key[1]) for key in groups)
    hint = "Channels of a scan count from _0000 without a gap. " if numbered else ""
    return (
        f"{len(orphans)} mask(s) fit no scan: {shown}. Scans are, for instance, {scans}. {hint}Name masks "
        "like their scans (same name in a folder of masks, or NAME_mask beside NAME), say with --images and "
        "--masks which files are which, or leave these out with --skip-errors."
    )


def _check_parts(scan: Sequence[Item], masks: Sequence[Item]) -> None:
    if len(masks) == 1:
        return
    stems = [stem_of(mask.path) for mask in masks]
    matches = [_SUFFIX.fullmatch(stem) for stem in stems]
    bases = {match["base"] if match else stem for match, stem in zip(matches, stems, strict=True)}
    numbered = [match for match in matches if match and match["part"]]
    if len(bases) > 1 or len(numbered) < len(masks) - 1:
        first = scan[0].path
        renumber = f" If the numbers are those of scans, not of channels, give {first.name} another one."
        raise DataError(
            f"{first} has several masks: {few(mask.path for mask in masks)}. Leave one, number the parts "
            "(NAME_mask_1, NAME_mask_2), or say with --masks which files are the masks."
            f"{renumber if len(scan) > 1 else ''}"
        )


def _identifiers(groups: Mapping[Key, Sequence[Item]]) -> dict[Key, str]:
    """Short names where they are unique, else with the folders before them."""
    short = {key: key[1].split("#")[0] for key in groups}
    counts = Counter(sanitized(name).lower() for name in short.values())
    names: dict[Key, str] = {}
    taken: Counter[str] = Counter()
    for key, name in short.items():
        generic = counts[sanitized(name).lower()] > 1 or (bool(key[0]) and _SCAN_PREFIX.fullmatch(name))
        full = sanitized("_".join((*key[0], name))) if generic else sanitized(name)
        if generic and _SCAN_PREFIX.fullmatch(name) and len(groups) == len({k[0] for k in groups}):
            full = sanitized("_".join(key[0]))  # patient01/image.nii.gz
        taken[full] += 1
        names[key] = full if taken[full] == 1 else f"{full}_{taken[full]}"
    return names


def _subset(scan: Item, key: Key, found: Mapping[Key, Sequence[Item]], root: Path) -> Subset:
    if any(_TEST_FOLDER.fullmatch(part) for part in _folders(scan.path, root)):
        return "test"
    return "train" if found.get(key) else "unlabeled"
