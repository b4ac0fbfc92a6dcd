"""Which cases a training uses, checked before it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.data.layout import IMAGES_UNLABELED, SPLITS_FILE, check_disjoint, hidden_cases, list_images
from nnunet_ssl.data.preprocessing import (
    Recipe,
    array_file,
    check_arrays,
    prepared_cases,
    preprocess_unlabeled,
    unlabeled_folder,
)
from nnunet_ssl.errors import DataError, TaskError
from nnunet_ssl.tasks import TaskTable


@dataclass(frozen=True)
class Folders:
    """The folders of one dataset and configuration.

    Attributes:
        preprocessed: ``nnUNet_preprocessed/DATASET``.
        labeled: nnU-Net's preprocessed cases of the configuration.
        raw: ``nnUNet_raw/DATASET``, ``None`` where raw data is not at hand.
    """

    preprocessed: Path
    labeled: Path
    raw: Path | None

    @property
    def unlabeled(self) -> Path:
        """Preprocessed scans of imagesUn."""
        return unlabeled_folder(self.preprocessed, self.labeled.name)

    @property
    def images_unlabeled(self) -> Path | None:
        """The folder imagesUn, where there is one."""
        folder = None if self.raw is None else self.raw / IMAGES_UNLABELED
        return folder if folder is not None and folder.is_dir() else None

    @property
    def splits(self) -> Path:
        """nnU-Net's split file."""
        return self.preprocessed / SPLITS_FILE


def bring_up_to_date(
    folders: Folders, recipe: Recipe, num_processes: int, log: Callable[[str], None]
) -> None:
    """Preprocess what is new in imagesUn; without that folder preprocessed scans are taken as they are."""
    images, before = folders.images_unlabeled, prepared_cases(folders.unlabeled)
    ready = preprocess_unlabeled(recipe, images, num_processes)
    if images is None and ready:
        log(f"No {IMAGES_UNLABELED} here: {len(ready)} prepared scan(s) in {folders.unlabeled} are used.")
    elif ready != before:
        log(f"Preprocessed {IMAGES_UNLABELED}: {len(ready)} unlabelled scan(s) in {folders.unlabeled}")


def unlabeled_files(
    folders: Folders,
    fold: int | str,
    train: Iterable[str],
    val: Iterable[str],
    num_channels: int,
    file_ending: str,
) -> dict[str, Path]:
    """Preprocessed image of every unlabelled case of a fold, from both sources.

    Raises:
        DataError: there is none, one is labelled, validation or test data too, or a file is broken.
    """
    hidden, bare = hidden_cases(folders.splits, fold), prepared_cases(folders.unlabeled)
    test = (
        [] if folders.raw is None else list(list_images(folders.raw / "imagesTs", file_ending, strict=True))
    )
    check_disjoint(
        hidden,
        f"'unlabeled' in fold {fold} of {folders.splits}",
        labelled_training=train,
        validation=val,
        test=test,
    )
    labelled_dataset = [p.stem for p in folders.labeled.glob("*.b2nd") if not p.stem.endswith("_seg")]
    check_disjoint(bare, IMAGES_UNLABELED, validation=val, labelled=labelled_dataset, test=test)
    if not hidden and not bare:
        raise DataError(
            f"No unlabelled case for fold {fold}. Put bare scans (CASE_0000{file_ending}) into the folder "
            f"{IMAGES_UNLABELED} of the raw dataset, or hide labels with 'nnUNetv2_ssl split -d ID "
            "--labeled N'. To train "
            "without unlabelled data use nnUNetTrainerSSLSupervised."
        )
    check_arrays(folders.labeled, hidden, num_channels)
    check_arrays(folders.unlabeled, bare, num_channels)
    files = {c: array_file(folders.labeled, c) for c in hidden}
    return files | {c: array_file(folders.unlabeled, c) for c in bare}


def check_tasks(table: TaskTable, train: Iterable[str]) -> None:
    """Raise ``TaskError`` if a task has no labelled training case, or a case no task."""
    present = {table.task_of(case) for case in train}
    missing = [task for i, task in enumerate(table.tasks) if i not in present]
    if missing:
        names = ", ".join(f"'{t.name}' (cases {t.prefix}*)" for t in missing)
        raise TaskError(
            f"No labelled training case for task(s) {names}: they cannot be learnt. Label some, or remove "
            "the task from "
            "dataset.json."
        )
