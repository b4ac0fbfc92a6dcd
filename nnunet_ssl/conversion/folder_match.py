"""Scans by the names that masks may call them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_ssl.conversion.folder_scan import Item
from nnunet_ssl.conversion.folder_words import Key, key_of, numbered, readings, scan_names, scan_number
from nnunet_ssl.errors import DataError, few

_MOST_CHANNELS = 10


@dataclass(frozen=True)
class Scans:
    """Scans, and what masks may call them.

    Attributes:
        groups: channels of each scan.
        index: places and names that a mask may have -> the scan; ``None`` where several would answer to it.
        general: folders that name no patient.
    """

    groups: Mapping[Key, Sequence[Item]]
    index: Mapping[Key, Key | None]
    general: Container[str]

    @classmethod
    def of(cls, scans: Iterable[Item], masks: Iterable[Item], scan_root: Path, mask_root: Path) -> Scans:
        """Those of a folder; ``masks`` tell which folders name no patient.

        Raises:
            DataError: two scans bear one name.
        """
        groups = _channels(scans, scan_root)
        general = _in_all(groups) | _in_all(key_of(mask, mask_root) for mask in masks)
        return cls(groups, _index(groups), general)

    def match(self, mask: Item, root: Path, labels: Mapping[str, str]) -> tuple[Key | None, Item]:
        """The scan that a mask belongs to, and the mask with the label that its name says.

        Args:
            mask: the file.
            root: folder that it was found in.
            labels: see ``readings``; empty where names say no labels.
        """
        if mask.series:
            return self._of_series(mask.series), mask
        if not labels or mask.kind not in ("volume", "picture"):
            return self._named(*key_of(mask, root)), mask
        found = [(self._named(*scan), label) for scan, label in readings(mask, root, labels)]
        found = [one for one in found if one[0] is not None] or found
        wanted = [one for one in found if one[1] in labels.values()]
        key, label = wanted[0] if wanted else found[-1]  # the longest name, or what the scan's leaves
        return key, replace(mask, label=label)

    def _named(self, folders: tuple[str, ...], name: str) -> Key | None:
        """The scan of a mask that lies in these folders and is called so; they may tell without a name."""
        own = tuple(part for part in folders if part not in self.general)
        for where in (folders, own, ()):
            for one in scan_names(name):
                key = self.index.get((where, one)) if one or where or not folders else None
                if key is not None and _may_share(folders, key[0], self.general):
                    return key
        return None

    def _of_series(self, series: str) -> Key | None:
        """The DICOM series that a mask says it outlines."""
        return next((key for key, items in self.groups.items() if items[0].series == series), None)


def _channels(scans: Iterable[Item], root: Path) -> dict[Key, list[Item]]:
    """Scans by folders and name; channels of one scan are together."""
    named: dict[Key, list[Item]] = defaultdict(list)
    numbers: dict[Key, set[int]] = defaultdict(set)
    for scan in scans:
        key = key_of(scan, root)
        named[key].append(scan)
        if found := numbered(key[1]):
            numbers[key[0], found[0]].add(found[1])
    groups: dict[Key, list[Item]] = {}
    for key, items in sorted(named.items(), key=lambda entry: entry[0]):
        found = numbered(key[1])
        base = (key[0], found[0]) if found else key
        if found and _are_channels(numbers[base]):
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


def _index(groups: Collection[Key]) -> dict[Key, Key | None]:
    """Every name that a mask may use for a scan; ``None`` where several scans would answer to it."""
    index: dict[Key, Key | None] = {}
    for key in groups:
        folders, name = key[0], key[1].split("#")[0]
        names = {(folders, name), ((), name), ((*folders, name), "")}  # the last: in a folder called like it
        if (number := scan_number(name)) is not None:
            names |= {(folders, number)} | ({((), number)} if number else set())
        for alias in names:
            index[alias] = key if index.get(alias, key) == key else None
    in_folder = Counter(folders for folders, _ in groups)
    for key in sorted(groups):
        above = [key[0][:depth] for depth in range(1, len(key[0]) + 1)]
        if in_folder[key[0]] == 1 and not any((folders, "") in index for folders in above):
            index[key[0], ""] = key  # the folder of this scan alone, unless it may be part of another's
    return index


def _in_all(keys: Iterable[Key]) -> set[str]:
    """Folders that all of several files lie in, such as ``T2`` or ``outlines``: those name no patient."""
    several = [{*folders} for folders, _ in keys]
    return set.intersection(*several) if len(several) > 1 else set()


def _may_share(mask: Sequence[str], scan: Sequence[str], general: Container[str]) -> bool:
    """Whether folders allow that a mask belongs to a scan of its name: not where each names a patient.

    ``masks/p1`` may belong to ``site/p1`` and ``outlines/P1/study`` to ``T2/P1/study``, ``P2/thorax`` not to
    ``P1/thorax``.
    """
    mine, theirs = ([part for part in folders if part not in general] for folders in (mask, scan))
    return not mine or not theirs or mine[-1] in theirs or theirs[-1] in mine
