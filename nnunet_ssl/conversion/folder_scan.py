"""Find the scans and masks in a folder of any shape."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnunet_ssl.conversion.images import ARRAYS, PICTURES, VOLUMES, ending_of
from nnunet_ssl.errors import DataError

Kind = Literal["volume", "picture", "array", "series", "rtstruct", "seg"]

_ENDINGS: dict[Kind, tuple[str, ...]] = {"volume": VOLUMES, "picture": PICTURES, "array": ARRAYS}
_DICOM = (".dcm", ".ima", ".dicom")
_TAGS = (
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "Rows",
    "ReferencedFrameOfReferenceSequence",
    "ReferencedSeriesSequence",
)
DATA_OF_OTHERS = (".raw", ".zraw", ".img")  # pixels of .mhd, .nhdr and .hdr files


@dataclass(frozen=True)
class Item:
    """A scan or a mask.

    Attributes:
        path: its file; the directory of a DICOM series.
        kind: what it is.
        series: DICOM series: its own; of an RTSTRUCT or DICOM-SEG: the one that it outlines.
        modality: as DICOM has it.
    """

    path: Path
    kind: Kind
    series: str = ""
    modality: str = ""


def items_in(folder: Path) -> tuple[list[Item], list[Path]]:
    """Every scan and mask beneath a folder, and the files that are neither.

    Raises:
        DataError: there is no such folder, or it holds DICOM files and pydicom is not installed.
    """
    if not folder.is_dir():
        raise DataError(f"Expected a folder of scans, but {folder} is none.")
    items: list[Item] = []
    unknown: list[Path] = []
    for directory, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        dicom = []
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(directory) / name
            kind = _kind_of(path)
            if kind is not None:
                items.append(Item(path, kind))
            elif is_dicom(path):
                dicom.append(path)
            elif ending_of(path) not in DATA_OF_OTHERS:
                unknown.append(path)
        found, others = _series_of(Path(directory), dicom)
        items += found
        unknown += others
    return items, unknown


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its ending or by the letters at byte 128."""
    if ending_of(path) in _DICOM:
        return True
    if ending_of(path) and not ending_of(path)[1:].isdigit():
        return False
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


def _kind_of(path: Path) -> Kind | None:
    return next((kind for kind, endings in _ENDINGS.items() if ending_of(path) in endings), None)


def _series_of(directory: Path, files: Iterable[Path]) -> tuple[list[Item], list[Path]]:
    """Series, structures and segmentations; and the rest of an export: reports, DICOMDIR, localizers."""
    items, others = [], []
    series: dict[str, Item] = {}
    for path in files:
        header = _header(path)
        modality = str(header.get("Modality", ""))
        uid = str(header.get("SeriesInstanceUID", ""))
        if modality in ("RTSTRUCT", "SEG"):
            kind: Kind = "rtstruct" if modality == "RTSTRUCT" else "seg"
            items.append(Item(path, kind, _referenced(header), modality))
        elif uid and header.get("Rows") and "LOCALIZER" not in header.get("ImageType", ()):
            series.setdefault(uid, Item(directory, "series", uid, modality))
        else:
            others.append(path)
    return [*items, *series.values()], others


def _header(path: Path) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise DataError(f"{path} is DICOM, which needs pydicom. Install it: pip install pydicom") from error
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except (pydicom.errors.InvalidDicomError, OSError, EOFError) as error:
        raise DataError(f"{path} is unreadable as DICOM: {error}. Remove it, or export it again.") from error


def _referenced(header: Any) -> str:
    """Series that an RTSTRUCT or DICOM-SEG refers to; empty if it does not say."""
    for frame in header.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            for series in study.get("RTReferencedSeriesSequence", []):
                return str(series.SeriesInstanceUID)
    for series in header.get("ReferencedSeriesSequence", []):
        return str(series.SeriesInstanceUID)
    return ""
