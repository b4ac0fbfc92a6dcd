"""Find datasets in nnU-Net's folders, and read what describes them."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from nnunet_ssl.data.layout import list_images
from nnunet_ssl.errors import DataError
from nnunet_ssl.json_files import read_json

Root = Literal["raw", "preprocessed"]


def root_folder(root: Root) -> Path:
    """The folder ``nnUNet_raw`` or ``nnUNet_preprocessed``.

    Raises:
        DataError: the environment variable is not set or its folder does not exist.
    """
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

    variable = nnUNet_raw if root == "raw" else nnUNet_preprocessed
    value = variable.get()
    if not value:
        raise DataError(
            f"nnUNet_{root} is not set. Set this environment variable to the folder of your datasets."
        )
    if not Path(value).is_dir():
        raise DataError(f"nnUNet_{root} is '{value}', which is no folder. Create it or correct the variable.")
    return Path(value)


def find_dataset(id_or_name: int | str) -> str:
    """Full name of a dataset, such as ``Dataset501_LeftAtriumMR``, from its number or its name.

    Raises:
        DataError: there is no such dataset, or several bear the number.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    text = str(id_or_name).strip()
    if text.startswith("Dataset") and text[7:10].isdigit():
        found = [str(name) for name in find_candidate_datasets(int(text[7:10])) if name == text]
    elif text.isdigit():
        found = [str(name) for name in find_candidate_datasets(int(text))]
    else:
        raise DataError(
            f"'{text}' names no dataset: expected a number such as 501 or a name such as Dataset501_Name."
        )
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"Several datasets bear the number {text}: {', '.join(found)}. Give the full name of one."
        )
    raise DataError(
        f"There is no dataset {text}. {_searched()} Check the number and these environment variables."
    )


def check_new_name(name: str) -> None:
    """Check that a new dataset may be called ``name``.

    Raises:
        DataError: the name is malformed, or another dataset bears its number.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    if not re.fullmatch(r"Dataset\d{3}_\w[\w-]*", name, flags=re.ASCII) or name.startswith("Dataset000"):
        raise DataError(
            f"'{name}' cannot name a dataset: expected a number from 1 to 999 and a name of letters, digits, "
            "'_' and '-', such as Dataset501_LeftAtrium."
        )
    number = name.split("_", 1)[0]
    candidates = [str(n) for n in find_candidate_datasets(int(number[7:]))]
    taken = [n for n in candidates if n != name and n.startswith(f"{number}_")]
    if taken:
        raise DataError(f"The number of {name} is taken by {', '.join(taken)}. Choose another number (-o).")


def dataset_folder(root: Root, id_or_name: int | str) -> Path:
    """Folder of a dataset in ``nnUNet_raw`` or ``nnUNet_preprocessed``.

    Raises:
        DataError: there is no such dataset, or it is not in that folder.
    """
    name = find_dataset(id_or_name)
    folder = root_folder(root) / name
    if not folder.is_dir():
        hint = (
            "Run nnUNetv2_plan_and_preprocess first."
            if root == "preprocessed"
            else "Put the raw dataset there."
        )
        raise DataError(f"Dataset {name} is not in nnUNet_{root}: expected the folder {folder}. {hint}")
    return folder


def existing_folder(root: Root | Literal["results"], name: str) -> Path | None:
    """Folder of a dataset by its full name, or ``None`` where it or the environment variable is missing."""
    base = os.environ.get(f"nnUNet_{root}")
    folder = Path(base) / name if base else None
    return folder if folder is not None and folder.is_dir() else None


def described_folders(name: str) -> list[Path]:
    """Folders of a dataset in nnUNet_raw and nnUNet_preprocessed that hold a ``dataset.json``."""
    folders = [existing_folder("raw", name), existing_folder("preprocessed", name)]
    return [f for f in folders if f is not None and (f / "dataset.json").is_file()]


def read_dataset_json(path: Path) -> dict[str, Any]:
    """Description of a dataset: a JSON file, or ``dataset.json`` of a folder.

    Raises:
        DataError: the file is missing, not valid JSON, lacks ``labels`` or ``file_ending``, or its labels
            are no names with numbers.
    """
    path = path if path.suffix == ".json" else path / "dataset.json"
    content = read_json(path)
    missing = [key for key in ("labels", "file_ending") if key not in content]
    if missing:
        raise DataError(f"{path} lacks the key(s) {', '.join(missing)}, which nnU-Net demands. Add them.")
    if not isinstance(content["labels"], Mapping):
        raise DataError(
            f"{path}: expected 'labels' to be names with numbers, such as {{\"background\": 0, "
            f'"liver": 1}}, found {content["labels"]!r}. Correct it.'
        )
    return dict(content)


def channel_names(dataset_json: Mapping[str, Any]) -> list[str]:
    """Names of the channels as nnU-Net orders them; old datasets call them ``modality``."""
    named = dataset_json.get("channel_names") or dataset_json.get("modality") or {}
    return [str(name) for name in named.values()]


def training_cases(folder: Path, dataset_json: Mapping[str, Any]) -> dict[str, tuple[list[Path], Path]]:
    """Images and label file of each labelled case of a raw dataset, as nnU-Net finds them.

    Read from ``imagesTr`` and ``labelsTr``, or from the lists in ``dataset.json["dataset"]`` if it has them.
    """
    if "dataset" in dataset_json:
        from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

        listed = get_filenames_of_train_images_and_targets(str(folder), copy.deepcopy(dict(dataset_json)))
        return {
            case: ([Path(f) for f in files["images"]], Path(files["label"])) for case, files in listed.items()
        }
    ending = dataset_json["file_ending"]
    images = list_images(folder / "imagesTr", ending, hidden=True)
    return {case: (files, folder / "labelsTr" / f"{case}{ending}") for case, files in images.items()}


def _searched() -> str:
    variables = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    return "Searched " + ", ".join(f"{name}={os.environ.get(name, '(not set)')}" for name in variables) + "."
