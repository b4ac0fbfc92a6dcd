"""What the masks of a folder mean: their values, and the names and numbers they get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_ssl.conversion.dicom_masks import folded, names_in
from nnunet_ssl.conversion.folder_names import Pair
from nnunet_ssl.conversion.folder_options import FolderOptions, label_key
from nnunet_ssl.conversion.folder_scan import Item
from nnunet_ssl.conversion.images import (
    JPEG,
    PICTURES,
    ending_of,
    from_picture,
    read_array,
    read_file,
    read_label_picture,
)
from nnunet_ssl.errors import ConfigError, DataError, few
from nnunet_ssl.parallel import run_jobs

_TOO_MANY = 64


@dataclass(frozen=True)
class LabelPlan:
    """Labels of the dataset.

    Attributes:
        labels: nnU-Net's.
        values: value in the masks -> value written.
        names: structures of RTSTRUCT, of DICOM-SEG or with masks of their own, in the order of their values.
        above: masks are whatever is brighter than this (JPEG), if it is not 0.
        notes: sentences on what was assumed.
    """

    labels: Mapping[str, int]
    values: Mapping[int, int]
    names: tuple[str, ...] = ()
    above: int = 0
    notes: tuple[str, ...] = ()


def plan_labels(pairs: Sequence[Pair], options: FolderOptions, processes: int = 1) -> LabelPlan:
    """Find out which values the masks hold, and name them.

    Raises:
        DataError: the masks are of mixed kinds, unreadable, no label maps, or hold values that were not
            named.
        ConfigError: the labels named are malformed.
    """
    masks = [mask for one in pairs for mask in one.masks]
    kinds = {_kind(mask) for mask in masks}
    if len(kinds) > 1:
        raise DataError(f"Masks are of several kinds ({', '.join(sorted(kinds))}). Choose one with --masks.")
    if kinds - {"values"}:
        return _structures(pairs, options, processes)
    if options.mask_per_label:
        raise DataError(
            f"--mask-per-label: expected masks called {', '.join(options.labels)}, found no mask that "
            "belongs to a scan. Correct --labels, or say with --images and --masks which files are which."
        )
    files = [mask.path for mask in masks if mask.kind != "series"]
    if any(ending_of(file) in JPEG for file in files):
        return _binary(files, options.labels, processes)
    if any(len(one.masks) > 1 for one in pairs):
        return _united(options.labels)
    jobs: list[Path | tuple[Path, str]] = [*files, *_array_jobs(pairs, options)]
    values: set[int] = set()
    colours: set[tuple[int, ...]] = set()
    for _, (some, coloured) in _read(_values_of, jobs, processes):
        values |= some
        colours |= coloured
    _check_colours(colours, values)
    return _named_values(sorted(values or {0}), parse_labels(options.labels))


def _read(function: Callable[[Any], Any], jobs: Sequence[Any], processes: int) -> Iterator[tuple[Any, Any]]:
    for index, result in tqdm(
        run_jobs(function, jobs, processes, few=7), "masks", total=len(jobs), disable=None
    ):
        yield jobs[index], result


def _check_colours(colours: Iterable[tuple[int, ...]], values: Iterable[int]) -> None:
    """Raise ``DataError`` where colours would tell labels apart: nothing says which of them means what."""
    shown = sorted(set(colours) - {(0, 0, 0)})
    if shown and (len(shown) > 1 or len({*values} - {0}) > 1):
        raise DataError(
            f"The masks are pictures with colours, RGB {few(shown)}: which label each means cannot be told. "
            "Store one number per label (gray values 1, 2, ... or a palette), or a mask for each label. If "
            "scans are among them, say with --images and --masks which files are which."
        )


def parse_labels(texts: Iterable[str]) -> dict[str, int | None]:
    """Read ``NAME`` or ``NAME=VALUE``; background is left out.

    Raises:
        ConfigError: a name is given twice, or a value is no whole number.
    """
    named: dict[str, int | None] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name in named or not name:
            raise ConfigError(f"--labels: '{text}' names a label twice, or none.")
        if equals and not value.isdigit():
            raise ConfigError(f"--labels: expected a whole number after '=' in '{text}'.")
        if name.lower() != "background":
            named[name] = int(value) if equals else None
    return named


def _kind(mask: Item) -> str:
    """What tells the labels of a mask: DICOM's names, that of the file, or its ``values``."""
    if mask.kind in ("rtstruct", "seg"):
        return mask.kind
    return "one file per label" if mask.label else "values"


def _structures(pairs: Sequence[Pair], options: FolderOptions, processes: int) -> LabelPlan:
    """Labels of masks that name what they hold."""
    held = {p.identifier: {n.strip() for mask in p.masks for n in names_in(mask)} for p in pairs if p.masks}
    plan = _named_structures(held, options)
    taken = [mask.path for one in pairs for mask in one.masks if mask.label in plan.names]
    above, notes = _half_brightness([file for file in taken if ending_of(file) in JPEG], processes)
    return replace(plan, above=above, notes=(*plan.notes, *notes))


def _named_structures(held: Mapping[str, set[str]], options: FolderOptions) -> LabelPlan:
    """Number the structures that are wanted; ``held`` names those of each case."""
    found = sorted({name for names in held.values() for name in names}, key=lambda name: (folded(name), name))
    known: dict[str, str] = {}
    for name in found:
        known.setdefault(folded(name), name)
    if not known:
        raise DataError(
            f"No structure is outlined in the masks of {few(held)}. Export them again, or choose other masks "
            "with --masks."
        )
    names = options.labels or tuple(known.values())
    if len({folded(name) for name in names}) < len(names):
        raise ConfigError(f"--labels: {', '.join(names)} names a structure twice.")
    missing = [name for name in names if folded(name) not in known]
    if missing:
        raise DataError(f"--labels: no file holds {', '.join(missing)}. Found: {', '.join(found)}.")
    notes = [f"Where structures overlap, the later one holds: {', '.join(names)}."] if len(names) > 1 else []
    left = [name for name in found if folded(name) not in {folded(n) for n in names}]
    if left:
        notes.append(f"Structures not taken: {', '.join(left)}.")
    notes += _lacking(held, names, options)
    labels = {"background": 0, **{name: value for value, name in enumerate(names, start=1)}}
    return LabelPlan(labels, {v: v for v in labels.values()}, names, notes=tuple(notes))


def _lacking(held: Mapping[str, set[str]], names: Sequence[str], options: FolderOptions) -> list[str]:
    """Say which cases lack structures: what nobody outlined would be taught as background."""
    lacking = []
    for case, has in held.items():
        here = {folded(name) for name in has}
        if missing := [name for name in names if folded(name) not in here]:
            lacking.append(f"{case} has no {', '.join(missing)} (it has {few(sorted(has), 12) or 'none'})")
    if not lacking:
        return []
    found = f"Structures are missing in {len(lacking)} of {len(held)} cases: {few(lacking)}."
    if options.allow_missing:
        return [f"{found} They are taken to be without."]
    if options.skip_orphans:
        return [f"{found} These cases are left out."]
    raise DataError(
        f"{found} Give each structure one name in all files, say with --labels which to take, add "
        "--allow-missing-labels if these patients are really without, or leave the cases out with "
        "--skip-errors."
    )


def _binary(files: Sequence[Path], wanted: Sequence[str], processes: int) -> LabelPlan:
    """Masks of which some are JPEG."""
    above, notes = _half_brightness(files, processes)
    labels = {"background": 0, _only_name(wanted): 1}
    return LabelPlan(labels, {0: 0, 1: 1}, above=above, notes=notes)


def _half_brightness(files: Sequence[Path], processes: int) -> tuple[int, tuple[str, ...]]:
    """Where to cut masks stored as JPEG, which blurs edges: at half of the brightest value of all."""
    if not files:
        return 0, ()
    brightest = dict(_read(_brightest, files, processes))
    above = max(brightest.values()) // 2
    notes = [f"Masks stored as JPEG are cut at half brightness (above {above})."]
    if blank := sorted(file.name for file in files if brightest[file] <= above):
        notes.append(f"{len(blank)} mask(s) are blank: {few(blank)}.")
    return above, tuple(notes)


def _united(wanted: Sequence[str]) -> LabelPlan:
    note = "Some scans have several masks: label 1 is wherever any of them is not 0."
    values = {value: int(value > 0) for value in range(256)}
    return LabelPlan({"background": 0, _only_name(wanted): 1}, values, notes=(note,))


def _only_name(wanted: Sequence[str]) -> str:
    named = parse_labels(wanted)
    if len(named) > 1:
        raise DataError(f"--labels: these masks tell one label from the background, got {', '.join(named)}.")
    return next(iter(named), "foreground")


def _named_values(found: Sequence[int], named: Mapping[str, int | None]) -> LabelPlan:
    foreground = [value for value in found if value != 0]
    if len(foreground) > _TOO_MANY:
        raise DataError(
            f"The masks hold {len(foreground)} different values: they are no label maps. Are scans among "
            "them? Say with --images and --masks which files are which."
        )
    meant = _values_named(foreground, named)
    missing = [value for value in foreground if value not in meant.values()]
    if missing:
        raise DataError(
            f"--labels: the masks hold {', '.join(map(str, foreground))}, but {', '.join(map(str, missing))} "
            "has no name. Name every value (NAME=VALUE)."
        )
    labels = {"background": 0, **{name: number for number, name in enumerate(meant, start=1)}}
    values = {0: 0, **{meant[name]: labels[name] for name in meant}}
    notes = []
    if not named and foreground:
        shown = ", ".join(f"{name} (value {meant[name]})" for name in meant)
        notes.append(f"Labels have no names yet: {shown}. Name them with --labels.")
    return LabelPlan(labels, values, notes=tuple(notes))


def _values_named(foreground: Sequence[int], named: Mapping[str, int | None]) -> dict[str, int]:
    """Value in the masks of each label: as given, else in ascending order."""
    if not named:
        names = ["foreground"] if len(foreground) == 1 else [f"label_{value}" for value in foreground]
        return dict(zip(names, foreground, strict=True))
    given = {value for value in named.values() if value is not None}
    free = [value for value in foreground if value not in given]
    unnamed = [name for name, value in named.items() if value is None]
    if len(unnamed) > len(free):
        raise DataError(
            f"--labels: {', '.join(unnamed[len(free) :])} has no value in the masks, which hold "
            f"{', '.join(map(str, foreground)) or 'nothing but 0'}. Correct the names, or give their values."
        )
    rest = dict(zip(unnamed, free, strict=False))
    return {name: rest[name] if value is None else value for name, value in named.items()}


def _array_jobs(pairs: Sequence[Pair], options: FolderOptions) -> list[tuple[Path, str]]:
    files = [one.images[0].path for one in pairs if one.images[0].kind == "array" and not one.masks]
    return [(file, key) for file in files if (key := label_key(file, options))]


def _values_of(job: Path | tuple[Path, str]) -> tuple[set[int], set[tuple[int, ...]]]:
    """Values of a mask, and its colours (not all, if there are many) if it is a picture that has some.

    Raises:
        DataError: it has values that are no whole numbers, or negative ones.
    """
    if isinstance(job, tuple):
        path, image = job[0], read_array(*job)
    else:
        path = job
        image = read_label_picture(job, gray=False) if ending_of(job) in PICTURES else read_file(job)
    colours = np.empty((0, 3), dtype=np.uint8)
    if image.GetNumberOfComponentsPerPixel() == 3:
        colours = np.unique(sitk.GetArrayViewFromImage(image).reshape(-1, 3), axis=0)[:_TOO_MANY]
        image = from_picture(colours[None])
    values = np.unique(sitk.GetArrayFromImage(image))
    wrong = values[(values < 0) | (values != np.rint(values))]
    if wrong.size:
        raise DataError(
            f"{path} holds values such as {wrong[0]:g}: it is no label map. Is it a scan? Say with --images "
            "and --masks which files are which."
        )
    return {int(value) for value in values}, {tuple(map(int, colour)) for colour in colours}


def _brightest(path: Path) -> int:
    image = read_label_picture(path) if ending_of(path) in PICTURES else read_file(path)
    return int(sitk.GetArrayFromImage(image).max())
