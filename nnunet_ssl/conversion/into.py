"""Scans without masks: add them to ``imagesUn`` of a dataset, or name them for ``nnUNetv2_predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_ssl.conversion.cases import Case, check_unique, image_folder
from nnunet_ssl.conversion.convert_case import Job, targets
from nnunet_ssl.conversion.dataset_json import (
    dataset_folder,
    described_folders,
    existing_folder,
    find_dataset,
    list_images,
    read_dataset_json,
)
from nnunet_ssl.conversion.folder import scans_of
from nnunet_ssl.conversion.folder_options import FolderOptions
from nnunet_ssl.conversion.images import PICTURES
from nnunet_ssl.conversion.writer import convert_all
from nnunet_ssl.errors import DataError, few


@dataclass(frozen=True)
class AddPlan:
    """Scans to add.

    Attributes:
        folder: of the dataset, or that of scans to predict.
        file_ending: of its files.
        gray: pictures become gray.
        cases: to add.
        present: identifiers that are there already.
    """

    folder: Path
    file_ending: str
    gray: bool
    cases: Sequence[Case]
    present: frozenset[str]

    @property
    def images(self) -> Path:
        """Folder that gets the scans."""
        return self.folder / image_folder(self.cases[0])

    def rows(self) -> list[tuple[str, str]]:
        """Rows of case and what is done with it."""
        return [(c.identifier, "is there" if c.identifier in self.present else "add") for c in self.cases]


def plan_into(folder: Path, dataset: str, options: FolderOptions) -> AddPlan:
    """Plan to add the scans of a folder to ``imagesUn``; files with names of masks are left out.

    Raises:
        DataError: there is no such dataset, a scan has another number of channels than it, or bears the name
            of one of its labelled or test cases.
    """
    target = dataset_folder("raw", dataset)
    plan = _plan(scans_of(folder, options), read_dataset_json(target), target.name, target)
    for place in ("imagesTr", "imagesTs"):
        images = list_images(target / place, plan.file_ending)
        both = sorted({case.identifier for case in plan.cases} & set(images))
        if both:
            raise DataError(
                f"{len(both)} scan(s) bear the name of a case in {place}: {few(both)}. A case can "
                "play one part only: rename the scans if they are others, or take them out."
            )
    return plan


def plan_predict(folder: Path, model: str, target: Path, options: FolderOptions) -> AddPlan:
    """Plan to write the scans of a folder as ``nnUNetv2_predict -i`` takes them.

    Args:
        folder: holds the scans; files whose names say that they are masks are left out.
        model: folder of a trained model, or a dataset that is in one of nnU-Net's three folders.
        target: gets the scans.
        options: how the folder is read.

    Raises:
        DataError: there is no such model, or a scan has another number of channels than it.
    """
    content, name = _description(model)
    cases = [replace(case, subset="predict") for case in scans_of(folder, options)]
    return _plan(cases, content, name, target)


def _plan(cases: Sequence[Case], content: Mapping[str, Any], name: str, target: Path) -> AddPlan:
    ending, channels = content["file_ending"], len(content["channel_names"])
    gray = not (ending in PICTURES and channels == 3)
    check_unique(cases)
    files = channels if gray else 1
    for case in cases:
        if len(case.images) != files:
            raise DataError(
                f"Scan {case.identifier} has {len(case.images)} channel file(s), but {name} has "
                f"{files}. All scans need the same channels."
            )
    there = list_images(target / image_folder(cases[0]), ending)
    present = frozenset(case for case, paths in there.items() if len(paths) == files)
    return AddPlan(target, ending, gray, cases, present)


def _description(model: str) -> tuple[dict[str, Any], str]:
    """``dataset.json`` of a model or dataset, and a name for messages."""
    if (Path(model) / "dataset.json").is_file():
        return read_dataset_json(Path(model)), Path(model).resolve().name
    name = find_dataset(model)
    trained = existing_folder("results", name)
    models = [] if trained is None else sorted(file.parent for file in trained.glob("*/dataset.json"))
    folders = [*described_folders(name), *models]
    if not folders:
        raise DataError(
            f"No dataset.json of {name} in nnUNet_raw, nnUNet_preprocessed or nnUNet_results. Name the "
            "folder of the trained model, the one that holds plans.json."
        )
    return read_dataset_json(folders[0]), name


def add_scans(plan: AddPlan, processes: int = 1, copy: bool = False, skip_errors: bool = False) -> int:
    """Write the scans; returns how many were added.

    Raises:
        DataError: some failed. The others are there, and a second call adds only what is missing.
    """
    plan.images.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(case, plan.folder, plan.file_ending, {}, plan.gray, copy, "")
        for case in plan.cases
        if case.identifier not in plan.present
    ]
    outcomes = list(convert_all(jobs, processes, len(plan.cases)))
    failed = {outcome.case: outcome.failure for outcome in outcomes if outcome.record is None}
    for case in plan.cases:
        if case.identifier in failed:  # the channels that were written before the one that failed
            for file in targets(case, plan.file_ending):
                (plan.folder / file).unlink(missing_ok=True)
    if failed and not skip_errors:
        shown = "\n".join(f"  {case}: {reason}" for case, reason in list(failed.items())[:10])
        raise DataError(
            f"{len(failed)} of {len(plan.cases)} scans could not be added:\n{shown}\nThe others were. "
            "Correct these and run the same command again, or add --skip-errors."
        )
    return len(outcomes) - len(failed)
