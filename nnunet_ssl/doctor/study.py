"""What the checks look at: the dataset's description, its cases, and which of them train and judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_ssl.data.dataset_json import channel_names
from nnunet_ssl.data.layout import UNLABELED
from nnunet_ssl.doctor.facts import IMAGES_TR, IMAGES_TS, IMAGES_UN, CaseFacts
from nnunet_ssl.errors import ConfigError, DataError
from nnunet_ssl.json_files import read_json
from nnunet_ssl.tasks import IGNORE, TaskTable


class Part(Enum):
    """The part that a case plays in a fold."""

    LABELED = "labelled"
    VALIDATION = "validation"
    UNLABELED = "unlabelled"
    TEST = "test"
    UNUSED = "unused"

    @property
    def trains(self) -> bool:
        """Whether the network sees the scan in training."""
        return self in (Part.LABELED, Part.UNLABELED)

    @property
    def judges(self) -> bool:
        """Whether scores are computed on the case."""
        return self in (Part.VALIDATION, Part.TEST)


@dataclass(frozen=True)
class Fold:
    """Cases of imagesTr by the part they play.

    Attributes:
        name: its number, ``all``, or empty where there is no split yet.
        train: labelled cases.
        val: validation cases.
        hidden: cases whose labels are hidden.
    """

    name: str
    train: frozenset[str]
    val: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()

    def part_of(self, case: CaseFacts) -> Part:
        """The part of a case, by its folder or by its place in the fold."""
        if case.folder != IMAGES_TR:
            return {IMAGES_UN: Part.UNLABELED, IMAGES_TS: Part.TEST}[case.folder]
        groups = ((Part.LABELED, self.train), (Part.VALIDATION, self.val), (Part.UNLABELED, self.hidden))
        return next((part for part, cases in groups if case.case in cases), Part.UNUSED)


@dataclass(frozen=True)
class Study:
    """What the checks are given.

    Attributes:
        name: of the dataset.
        dataset_json: its description.
        cases: facts of every case.
        folds: those asked for; without a split, one without a name that labels all of imagesTr.
        normalization: for each channel, nnU-Net's class name, such as ``ZScoreNormalization``.
        group_regex: as in ``nnUNetv2_ssl split``.
    """

    name: str
    dataset_json: Mapping[str, Any]
    cases: Sequence[CaseFacts]
    folds: Sequence[Fold]
    normalization: Sequence[str] = ()
    group_regex: str | None = None
    table: TaskTable = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", TaskTable.from_dataset_json(self.dataset_json))

    @property
    def has_split(self) -> bool:
        """Whether it is settled which cases validate."""
        return any(fold.name for fold in self.folds)

    @property
    def channel_names(self) -> list[str]:
        """Names of the channels in order."""
        return channel_names(self.dataset_json)

    @property
    def ignore_value(self) -> int | None:
        """Value of nnU-Net's ignore label, if there is one."""
        value = self.dataset_json["labels"].get(IGNORE)
        return None if value is None else int(value)

    @cached_property
    def labeled_cases(self) -> list[CaseFacts]:
        """Cases whose labels count in at least one fold, for training or for validation."""
        used = frozenset().union(*(fold.train | fold.val for fold in self.folds))
        return [case for case in self.cases if case.folder == IMAGES_TR and case.case in used]

    def in_folder(self, folder: str) -> list[CaseFacts]:
        """Cases of one folder."""
        return [case for case in self.cases if case.folder == folder]

    def own_values(self, task: int) -> set[int]:
        """Label values that a task annotates."""
        return {value for p in self.table.prompts if p.task == task for value in p.values} - {0}


def read_folds(splits_file: Path, fold: str | None, labeled: Iterable[str]) -> list[Fold]:
    """The folds to look at.

    Args:
        splits_file: ``splits_final.json``, which may be missing.
        fold: number, ``all``, or ``None`` for every fold of the file.
        labeled: cases of imagesTr.

    Raises:
        DataError: the file is no split.
        ConfigError: it has no such fold.
    """
    everything = frozenset(labeled)
    if fold == "all":
        return [Fold("all", everything)]
    if fold is not None and not fold.isdigit():
        raise ConfigError(f"-f: expected the number of a fold or 'all', got '{fold}'.")
    if not splits_file.is_file():
        return [Fold("", everything)]
    content = read_json(splits_file)
    if not isinstance(content, list) or not all(_is_fold(entry) for entry in content):
        raise DataError(
            f"{splits_file} is no split: expected a list of folds, each with the lists 'train' and 'val'. "
            "Make it anew with nnUNetv2_ssl split."
        )
    folds = [
        Fold(str(i), frozenset(f["train"]), frozenset(f["val"]), frozenset(f.get(UNLABELED, ())))
        for i, f in enumerate(content)
    ]
    if fold is None:
        return folds
    if int(fold) >= len(folds):
        raise ConfigError(f"-f {fold}: {splits_file} has {len(folds)} fold(s), 0 to {len(folds) - 1}.")
    return [folds[int(fold)]]


def _is_fold(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), list) for key in ("train", "val"))


def in_folds(names: Iterable[str]) -> str:
    """`` in fold 0, 2`` for a sentence; nothing where there is no split."""
    listed = ", ".join(dict.fromkeys(name for name in names if name))
    return f" in fold {listed}" if listed else ""
