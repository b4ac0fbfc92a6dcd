"""A dataset that is about to be written: its cases, its description, and where it goes."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ssl.conversion.cases import IMAGE_FOLDERS, Case, Source, check_unique, files_of
from nnunet_ssl.conversion.images import ending_of
from nnunet_ssl.conversion.paper_splits import Split
from nnunet_ssl.data.dataset_json import check_new_name, root_folder
from nnunet_ssl.errors import DataError, few
from nnunet_ssl.json_files import read_json

RECORD = "conversion.json"  # in the finished dataset: what each case was made from
NAMES = "names"  # in it: of labels and channels, as asked for; dataset.json may be edited
FILES = "files"  # in it: every file that was written, with its size and time of change
_CLOCK = 2.0  # seconds; some file systems round times
_LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini")  # of file managers


@dataclass(frozen=True)
class DatasetPlan:
    """What to write.

    Attributes:
        name: full name, such as ``Dataset501_LeftAtrium``.
        origin: what makes it, for the record: the recipe and its variant, or ``folder``.
        cases: every case, of all subsets.
        channels: names of the channels; ``CT`` makes nnU-Net normalise by Hounsfield units.
        labels: nnU-Net's ``labels``, with ``background``.
        file_ending: of every image and label file.
        values: value in the label sources -> value written.
        gray: pictures with colours become gray ones.
        about: more entries for ``dataset.json``: licence, reference, description.
        splits: to be written along.
    """

    name: str
    origin: str
    cases: Sequence[Case]
    channels: Sequence[str]
    labels: Mapping[str, Any]
    file_ending: str
    values: Mapping[int, int]
    gray: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)
    splits: Sequence[Split] = ()

    def __post_init__(self) -> None:
        check_unique(self.cases)
        files = 1 if not self.gray else len(self.channels)
        for case in self.cases:
            if len(case.images) != files:
                raise DataError(
                    f"Case {case.identifier} has {len(case.images)} channel file(s), expected {files} "
                    f"({', '.join(self.channels)}). Add what is missing or take the case out."
                )

    def options(self) -> dict[str, Any]:
        """What decides, beside its sources, how a case is written."""
        values = sorted((int(a), int(b)) for a, b in self.values.items())
        return {"origin": self.origin, "ending": self.file_ending, "values": values, "gray": self.gray}

    def names(self) -> dict[str, Any]:
        """What labels and channels are called, as JSON has it."""
        content = self.dataset_json()
        return dict(json.loads(json.dumps({key: content[key] for key in ("channel_names", "labels")})))

    def dataset_json(self) -> dict[str, Any]:
        """Content of ``dataset.json``."""
        return {
            "channel_names": {str(i): name for i, name in enumerate(self.channels)},
            "labels": dict(self.labels),
            "numTraining": self.counts()["train"],
            "file_ending": self.file_ending,
            "name": self.name.split("_", 1)[1],
            **self.about,
        }

    def counts(self) -> Counter[str]:
        """How many cases each subset has."""
        return Counter(case.subset for case in self.cases)

    def case_rows(self) -> list[tuple[str, str, str, str, str]]:
        """Rows of case, folder, source of the images and of the label, and what is done with the images."""
        sources = [source for case in self.cases for source in (*case.images, case.label)]
        root = _common_folder(path.parent for source in sources for path in files_of(source))
        return [
            (
                case.identifier,
                IMAGE_FOLDERS[case.subset],
                _names(case.images, root),
                _names([case.label], root) or "-",
                "link" if all(self._is_linked(source) for source in case.images) else "convert",
            )
            for case in self.cases
        ]

    def _is_linked(self, source: Source) -> bool:
        return isinstance(source, Path) and ending_of(source) == self.file_ending

    def count_rows(self) -> list[tuple[str, str, int]]:
        """Rows of subset, folder and number of cases."""
        counts = self.counts()
        return [(subset, folder, counts[subset]) for subset, folder in IMAGE_FOLDERS.items()]


def target_name(text: str, default: str) -> str:
    """Full name of a new dataset, from ``-o``: a number alone gets the name ``default``.

    Raises:
        DataError: the name is malformed or its number is taken by another dataset.
    """
    name = f"Dataset{int(text):03d}_{default}" if text.isdigit() else text
    check_new_name(name)
    return name


def target_folder(name: str, overwrite: bool) -> Path:
    """Where the dataset goes; what is there already must have been made by ``convert``, every file of it.

    Raises:
        DataError: the folder exists and may not be replaced.
    """
    folder = root_folder("raw") / name
    if not folder.exists():
        return folder
    if not (folder / RECORD).is_file():
        raise DataError(
            f"{folder} exists and was not made by convert: it is not replaced. Remove it, or choose another "
            "-o."
        )
    if not overwrite:
        raise DataError(f"{folder} exists. Choose another name, or add --overwrite to replace it.")
    if own := _not_made(folder):
        raise DataError(
            f"{folder} holds {len(own)} file(s) that convert did not write there, or that were changed "
            f"since: {few(own)}. Nothing was replaced, since they would be lost. Move them out of the "
            "folder, run the same command again and move them back, or choose another -o."
        )
    return folder


def stamps(folder: Path) -> dict[str, list[float]]:
    """Size and time of change of each file and link in a folder, by its path below it."""
    paths = [p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
    made = {p.relative_to(folder).as_posix(): p.lstat() for p in paths if not _LITTER.fullmatch(p.name)}
    return {name: [status.st_size, status.st_mtime] for name, status in sorted(made.items())}


def _not_made(folder: Path) -> list[str]:
    """Files of a finished dataset that ``convert`` did not write, or not as they are."""
    written = read_json(folder / RECORD).get(FILES, {})
    return [
        name
        for name, (size, time) in stamps(folder).items()
        if name != RECORD and not _is_as_written(folder / name, size, time, written.get(name))
    ]


def _is_as_written(path: Path, size: float, time: float, written: Sequence[float] | None) -> bool:
    if written is None:
        return False
    # A hard link changes with its source, which keeps what it holds.
    return (size == written[0] and abs(time - written[1]) <= _CLOCK) or path.lstat().st_nlink > 1


def _common_folder(folders: Iterable[Path]) -> str:
    try:
        return os.path.commonpath({*folders})
    except ValueError:  # on several drives of Windows
        return ""


def _names(sources: Iterable[Source | None], root: str) -> str:
    """Paths below ``root`` of the files, each once, or of the folders of DICOM series."""
    paths = dict.fromkeys(path for source in sources for path in files_of(source))
    return ", ".join((path.relative_to(root) if root else path).as_posix() for path in paths)


def is_finished(plan: DatasetPlan, prints: Mapping[str, str]) -> bool:
    """Whether the dataset is there and made from these very files in this very way, with these names."""
    file = root_folder("raw") / plan.name / RECORD
    if not file.is_file():
        return False
    record = read_json(file)
    made = {case["case"]: case["fingerprint"] for case in record["cases"]}
    return made == dict(prints) and record.get(NAMES) == plan.names()
