"""Where unlabelled scans lie, and which of them may be used.

Two sources, usable together: bare scans in ``nnUNet_raw/DATASET/imagesUn``, and cases of imagesTr that a fold
of ``splits_final.json`` names under ``"unlabeled"``, whose labels are then hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import DataError, few
from nnunet_ssl.json_files import read_json

IMAGES_UNLABELED = "imagesUn"
SPLITS_FILE = "splits_final.json"
UNLABELED = "unlabeled"  # key of a fold in it


def list_images(
    folder: Path, file_ending: str, hidden: bool = False, strict: bool = False
) -> dict[str, list[Path]]:
    """Scans of a folder in nnU-Net's naming: case id to its channel files in order. No folder, no scans.

    nnU-Net's own listing compares every file with every case in twelve processes; one pass is enough.

    Args:
        folder: such as ``imagesTr``.
        file_ending: of the scans; other files are left alone.
        hidden: also names that start with ``.``, which nnU-Net takes for scans of ``imagesTr``.
        strict: refuse files without channel number.

    Raises:
        DataError: a file does not end in ``_XXXX`` + file ending, and ``strict`` is set.
    """
    scans: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.name.endswith(file_ending) or (path.name.startswith(".") and not hidden):
            continue
        match = re.fullmatch(r"(.+)_\d{4}", path.name[: -len(file_ending)])
        if match is not None:
            scans.setdefault(match.group(1), []).append(path)
        elif strict:
            raise DataError(
                f"Unexpected file name {path}: expected CASE_0000{file_ending} (channel number of four "
                "digits). Rename the file."
            )
    return scans


def hidden_cases(splits_file: Path, fold: int | str) -> list[str]:
    """Case ids that the fold names under ``"unlabeled"``; none for fold ``all`` or without a split."""
    if fold == "all" or not splits_file.is_file():
        return []
    splits: list[dict[str, Any]] = read_json(splits_file)
    return list(splits[int(fold)].get(UNLABELED, [])) if int(fold) < len(splits) else []


def check_disjoint(unlabeled: Iterable[str], source: str, **others: Iterable[str]) -> None:
    """Raise ``DataError`` that names every case which is unlabelled and, say, in validation too.

    Args:
        unlabeled: unlabelled case ids.
        source: where they come from, for the message.
        others: case ids by what they are, for instance ``validation=[...]``.
    """
    mine = set(unlabeled)
    for role, cases in others.items():
        both = sorted(mine & set(cases))
        if both:
            name = role.replace("_", " ")
            raise DataError(
                f"{len(both)} case(s) are unlabelled ({source}) and also {name}: {few(both, 10)}. Each case "
                f"may play one part only: remove it from {source} or from the {name} cases."
            )
