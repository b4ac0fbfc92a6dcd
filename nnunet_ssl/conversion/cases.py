"""What a recipe yields: cases, each with the sources of its images and of its label."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnunet_ssl.errors import DataError

Subset = Literal["train", "unlabeled", "test", "predict"]

# A file, which is linked where nnU-Net can read it as it is; or a function that makes the image. Functions
# are called in other processes: give a ``functools.partial`` of a function of a module, with paths as
# arguments.
Source = Path | Callable[[], Any]

# Of a dataset; scans to predict belong to none.
IMAGE_FOLDERS: Mapping[Subset, str] = {"train": "imagesTr", "unlabeled": "imagesUn", "test": "imagesTs"}
LABEL_FOLDERS: Mapping[Subset, str] = {"train": "labelsTr", "test": "labelsTs"}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Series:
    """A DICOM series, as an argument of a source.

    Attributes:
        folder: that its files lie in or below, perhaps among others.
        files: their names, relative to it, in any order.
    """

    folder: Path
    files: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One scan.

    Attributes:
        identifier: its name in nnU-Net's folders, without channel and file ending.
        images: one source per channel.
        label: its label map, if it has one.
        subset: ``train`` (labelled), ``unlabeled``, ``test``, or ``predict``: a scan that no dataset gets.
        group: the patient, sweep or centre that must not be torn apart by a split; the case itself if empty.

    Raises:
        DataError: the identifier cannot name a file, or label and subset contradict each other.
    """

    identifier: str
    images: Sequence[Source]
    label: Source | None = None
    subset: Subset = "train"
    group: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.identifier):
            raise DataError(
                f"'{self.identifier}' cannot name a case: expected letters, digits, '_', '-', '+' and '.', "
                "and a letter or digit first. Rename the source files."
            )
        if not self.images:
            raise DataError(f"Case {self.identifier} has no image.")
        if (self.label is None) == (self.subset == "train"):
            has = "a label" if self.label is not None else "no label"
            if self.subset != "test":
                raise DataError(f"Case {self.identifier} has {has} but is meant for '{self.subset}'.")

    @property
    def together(self) -> str:
        """What a split keeps together."""
        return self.group or self.identifier


def image_folder(case: Case) -> str:
    """Folder of a case's images, relative to the dataset or to the folder of scans to predict."""
    return IMAGE_FOLDERS.get(case.subset, ".")


def if_there(label: Path) -> Path | None:
    """The label of a test scan, which publishers may keep to themselves."""
    return label if label.is_file() else None


def sanitized(name: str) -> str:
    """``name`` with everything that cannot stand in an identifier replaced by ``_``.

    >>> sanitized("benign (12)")
    'benign_12'
    """
    clean = re.sub(r"[^A-Za-z0-9.+-]+", "_", name).strip("_.-+")
    return clean or "case"


def files_of(source: Source | None, slices: bool = False) -> Iterator[Path]:
    """Every file and folder that a source reads: of a DICOM series its folder, or (``slices``) its files."""
    if isinstance(source, functools.partial):
        yield from _paths((*source.args, *source.keywords.values()), slices)
    else:
        yield from _paths(source, slices)


def fingerprint(case: Case, options: Mapping[str, Any]) -> str:
    """A text that changes when the sources of a case or the way it is converted change."""
    sources = [*case.images, case.label]
    stamps = [_stamp(path) for source in sources for path in files_of(source, slices=True)]
    content = [case.identifier, case.subset, [_describe(s) for s in sources], stamps, dict(options)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


def check_unique(cases: Sequence[Case]) -> None:
    """Raise ``DataError`` where two cases bear one identifier (upper and lower case alike)."""
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(case.identifier.lower(), case)
        if other is not case:
            mine, theirs = ([str(p) for p in files_of(c.images[0])][:1] for c in (case, other))
            raise DataError(
                f"Two scans would be called {case.identifier}: {theirs} and {mine}. Rename one, or remove it."
            )


def _paths(value: Any, slices: bool) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Series):
        yield from (value.folder / file for file in value.files) if slices else (value.folder,)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _paths(item, slices)


def _stamp(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except OSError:  # a failure of this case alone, told when it is converted
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]


def _describe(source: Source | None) -> str:
    if isinstance(source, functools.partial):
        return f"{source.func.__module__}.{source.func.__qualname__}{source.args!r}{source.keywords!r}"
    return repr(source)
