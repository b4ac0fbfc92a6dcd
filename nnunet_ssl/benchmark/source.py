"""The user's dataset, as a benchmark needs it. It is read only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.data.dataset_json import dataset_folder, find_dataset, read_dataset_json, training_cases
from nnunet_ssl.data.layout import IMAGES_UNLABELED, list_images
from nnunet_ssl.tasks import TaskTable

ImagesAndLabel = tuple[Sequence[Path], Path]


@dataclass(frozen=True)
class Source:
    """The user's dataset.

    Attributes:
        name: full name.
        preprocessed: its folder in ``nnUNet_preprocessed``.
        raw: its folder in ``nnUNet_raw``.
        dataset_json: its description.
        training: channel files and label file of each labelled case.
        test: the same of imagesTs, where there is a label.
        bare: channel files of each scan in imagesUn.
    """

    name: str
    preprocessed: Path
    raw: Path
    dataset_json: Mapping[str, Any]
    training: Mapping[str, ImagesAndLabel]
    test: Mapping[str, ImagesAndLabel]
    bare: Mapping[str, Sequence[Path]]

    @property
    def tasks(self) -> TaskTable:
        """What the labels mean."""
        return TaskTable.from_dataset_json(self.dataset_json)

    @property
    def ending(self) -> str:
        """Of its files."""
        return str(self.dataset_json["file_ending"])


def load_source(id_or_name: str) -> Source:
    """Look at a dataset, raw and preprocessed.

    Raises:
        DataError: it is not there; the raw data is needed, for test cases are predicted from their scans.
    """
    name = find_dataset(id_or_name)
    preprocessed, raw = dataset_folder("preprocessed", name), dataset_folder("raw", name)
    description = read_dataset_json(raw)
    ending = description["file_ending"]
    test = {
        case: (files, raw / "labelsTs" / f"{case}{ending}")
        for case, files in list_images(raw / "imagesTs", ending).items()
        if (raw / "labelsTs" / f"{case}{ending}").is_file()
    }
    bare = list_images(raw / IMAGES_UNLABELED, ending)
    return Source(name, preprocessed, raw, description, training_cases(raw, description), test, bare)
