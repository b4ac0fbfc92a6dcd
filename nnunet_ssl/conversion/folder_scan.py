"""Find the scans and masks in a folder of any shape."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnunet_ssl.conversion.cases import Series
from nnunet_ssl.conversion.dicom import header
from nnunet_ssl.conversion.images import ARRAYS, PICTURES, VOLUMES, ending_of
from nnunet_ssl.errors import DataError

Kind = Literal["volume", "picture", "array", "series", "rtstruct", "seg"]

_ENDINGS: dict[Kind, tuple[str, ...]] = {"volume": VOLUMES, "picture": PICTURES, "array": ARRAYS}
_DICOM = (".dcm", ".ima", ".dicom")
_TAGS = (
    "SOPClassUID",
    "SeriesInstanceUID",
    "Modality",
    "ImagePositionPatient",
    "ImageType",
    "Rows",
    "ReferencedFrameOfReferenceSequence",
    "ReferencedSeriesSequence",
)
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."  # Secondary Capture; those of several frames go on with 1 to 4
DATA_OF_OTHERS = (".raw", ".zraw", ".img")  # pixels of .mhd, .nhdr and .hdr files


@dataclass(frozen=True)
class Item:
    """A scan or a mask.

    Attributes:
        path: its file; the directory that a DICOM series lies in or below.
        kind: what it is.
        series: DICOM series: its own; of an RTSTRUCT or DICOM-SEG: the one that it outlines.
        modality: as DICOM has it.
        files: of a DICOM series, relative to its directory.
        label: that a mask holds, by its name; empty where its content tells.
    """

    path: Path
    kind: Kind
    series: str = ""
    modality: str = ""
    files: tuple[str, ...] = ()
    label: str = ""

    @property
    def whole(self) -> Series:
        """The DICOM series, to be read."""
        return Series(self.path, self.files)


def items_in(folder: Path) -> tuple[list[Item], list[Path]]:
    """Every scan and mask beneath a folder, and the files that are neither.

    Raises:
        DataError: there is no such folder, or it holds DICOM files and pydicom is not installed.
    """
    if not folder.is_dir():
        raise DataError(f"Expected a folder of scans, but {folder} is none.")
    items: list[Item] = []
    unknown: list[Path] = []
    dicom: list[Path] = []
    for directory, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not _leads_back(Path(directory) / name)
        )
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(directory) / name
            kind = _kind_of(path)
            if kind is not None:
                items.append(Item(path, kind))
            elif is_dicom(path):
                dicom.append(path)
            elif ending_of(path) not in DATA_OF_OTHERS:
                unknown.append(path)
    found, others = _series_of(dicom)
    return [*items, *found], [*unknown, *others]


def only_series(folder: Path) -> Series:
    """The one DICOM series beneath a folder.

    Raises:
        DataError: there is none, or several.
    """
    found = [item for item in items_in(folder)[0] if item.kind == "series"]
    if len(found) != 1:
        raise DataError(f"{folder}: expected one DICOM series beneath it, found {len(found)}.")
    return found[0].whole


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its ending or by the letters at byte 128."""
    if ending_of(path) in _DICOM:
        return True
    if ending_of(path) and not ending_of(path)[1:].isdigit():
        return False
    if not path.is_file():  # a link whose file is gone, a pipe
        return False
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


def _leads_back(folder: Path) -> bool:
    """Whether a link leads to a directory that it lies in: to follow it would find every scan again."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _kind_of(path: Path) -> Kind | None:
    return next((kind for kind, endings in _ENDINGS.items() if ending_of(path) in endings), None)


def _series_of(files: Iterable[Path]) -> tuple[list[Item], list[Path]]:
    """Series, structures and segmentations; and the rest of an export: reports, DICOMDIR, localizers.

    Discs spread a series over directories (DIR000, DIR001), so its files are gathered from all of them.
    """
    items, others = [], []
    series: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in files:
        entries = header(path, _TAGS)
        modality = str(entries.get("Modality", ""))
        if modality in ("RTSTRUCT", "SEG"):
            kind: Kind = "rtstruct" if modality == "RTSTRUCT" else "seg"
            items.append(Item(path, kind, _referenced(entries), modality))
        elif _is_slice(entries):
            series[str(entries.SeriesInstanceUID), modality].append(path)
        else:
            others.append(path)
    for (uid, modality), paths in series.items():
        directory = Path(os.path.commonpath([path.parent for path in paths]))
        names = tuple(path.relative_to(directory).as_posix() for path in paths)
        items.append(Item(directory, "series", uid, modality, names))
    return items, others


def _is_slice(entries: Any) -> bool:
    """Whether a file is part of a scan: no report, copy of a screen, or overview to plan slices by."""
    if not entries.get("SeriesInstanceUID") or not entries.get("Rows"):
        return False
    captured = (
        entries.get("Modality") in ("CT", "MR", "PT")
        and f"{entries.get('SOPClassUID')}.".startswith(_CAPTURE)
        and not entries.get("ImagePositionPatient")
    )
    return not (captured or "LOCALIZER" in (entries.get("ImageType") or ()))


def _referenced(entries: Any) -> str:
    """Series that an RTSTRUCT or DICOM-SEG refers to; empty if it does not say."""
    for frame in entries.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            for series in study.get("RTReferencedSeriesSequence", []):
                return str(series.SeriesInstanceUID)
    for series in entries.get("ReferencedSeriesSequence", []):
        return str(series.SeriesInstanceUID)
    return ""
