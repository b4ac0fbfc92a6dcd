"""Scans without masks: add them to ``imagesUn`` of a dataset, or name them for ``nnUNetv2_predict``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_ssl.conversion.cases import Case, check_unique, files_of, fingerprint, image_folder
from nnunet_ssl.conversion.convert_case import Job, targets
from nnunet_ssl.conversion.folder import scans_of
from nnunet_ssl.conversion.folder_options import FolderOptions
from nnunet_ssl.conversion.images import PICTURES
from nnunet_ssl.conversion.writer import convert_all
from nnunet_ssl.data.dataset_json import (
    channel_names,
    dataset_folder,
    described_folders,
    existing_folder,
    find_dataset,
    read_dataset_json,
)
from nnunet_ssl.data.layout import list_images
from nnunet_ssl.errors import DataError, few, listing
from nnunet_ssl.json_files import read_json, write_json_atomically

ADDED = "added.json"  # beside the scans: what each was made from


@dataclass(frozen=True)
class AddPlan:
    """Scans to add.

    Attributes:
        folder: of the dataset, or that of scans to predict.
        file_ending: of its files.
        gray: pictures become gray.
        cases: to add.
        present: identifiers that are there already, made from the same files.
        notes: sentences on what was left out.
    """

    folder: Path
    file_ending: str
    gray: bool
    cases: Sequence[Case]
    present: frozenset[str]
    notes: Sequence[str] = ()

    @property
    def images(self) -> Path:
        """Folder that gets the scans."""
        return self.folder / image_folder(self.cases[0])

    def rows(self) -> list[tuple[str, str]]:
        """Rows of case and what is done with it."""
        return [(c.identifier, "is there" if c.identifier in self.present else "add") for c in self.cases]

    def paths(self, case: Case) -> list[Path]:
        """Files of a case."""
        return [self.folder / path for path in targets(case, self.file_ending)]

    def origin(self, case: Case) -> dict[str, Any]:
        """What a case is made from, for the record."""
        sources = [str(path) for source in case.images for path in files_of(source)]
        options = {"ending": self.file_ending, "gray": self.gray}
        return {"sources": sources, "fingerprint": fingerprint(case, options)}


def plan_into(folder: Path, dataset: str, options: FolderOptions) -> AddPlan:
    """Plan to add the scans of a folder to ``imagesUn``; files with names of masks are left out.

    Raises:
        DataError: there is no such dataset, a scan has another number of channels than it, or bears the name
            of one of its labelled or test cases, or of another scan in ``imagesUn``.
    """
    target = dataset_folder("raw", dataset)
    cases, notes = scans_of(folder, options)
    plan = _plan(cases, notes, read_dataset_json(target), target.name, target)
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
        DataError: there is no such model, a scan has another number of channels than it or bears the name of
            another one in ``target``, or ``target`` lies in ``folder``.
    """
    content, name = _description(model)
    if target.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"-o {target} lies in -i {folder}: what is written would be read as scans. Choose another -o."
        )
    cases, notes = scans_of(folder, options)
    return _plan([replace(case, subset="predict") for case in cases], notes, content, name, target)


def _plan(
    cases: Sequence[Case], notes: Sequence[str], content: Mapping[str, Any], name: str, target: Path
) -> AddPlan:
    ending = content["file_ending"]
    channels = len(channel_names(content))
    if not channels:
        raise DataError(f"dataset.json of {name} lacks 'channel_names', which nnU-Net demands. Add it.")
    gray = not (ending in PICTURES and channels == 3)
    check_unique(cases)
    files = channels if gray else 1
    for case in cases:
        if len(case.images) != files:
            raise DataError(
                f"Scan {case.identifier} has {len(case.images)} channel file(s), but {name} has "
                f"{files}. All scans need the same channels."
            )
    plan = AddPlan(target, ending, gray, cases, frozenset(), notes)
    return replace(plan, present=_present(plan))


def _present(plan: AddPlan) -> frozenset[str]:
    """Cases whose files are all there.

    Raises:
        DataError: files of these names are there that were made from others.
    """
    added = _added(plan.folder)
    present, others = set(), []
    for case in plan.cases:
        there = [os.path.lexists(path) for path in plan.paths(case)]
        if any(there) and not _is_made_from(plan, case, added):
            others.append(_difference(plan, case, added))
        elif all(there):
            present.add(case.identifier)
    if others:
        raise DataError(
            f"{len(others)} scan(s) are there by name, but were not made from these files as they are now: "
            f"{few(others)}. If the new ones are other scans, rename them; else remove the files that are "
            "there, and the new ones take their place."
        )
    return frozenset(present)


def _added(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / ADDED)) if (folder / ADDED).is_file() else {}


def _is_made_from(plan: AddPlan, case: Case, added: Mapping[str, Any]) -> bool:
    """Whether what is there of a case is its source itself, a link to it, or what was written from it."""
    pairs = zip(case.images, plan.paths(case), strict=True)
    if all(isinstance(s, Path) and (s.resolve() == p.resolve() or not os.path.lexists(p)) for s, p in pairs):
        return True
    note = added.get(case.identifier, {})
    return bool(note.get("fingerprint") == plan.origin(case)["fingerprint"])


def _difference(plan: AddPlan, case: Case, added: Mapping[str, Any]) -> str:
    path = next(path for path in plan.paths(case) if os.path.lexists(path))
    new = plan.origin(case)["sources"]
    old = added.get(case.identifier, {}).get("sources", [str(path.resolve())] if path.is_symlink() else [])
    if old == new:
        return f"{path} (its source {', '.join(new)} was changed since)"
    return f"{path} (from {', '.join(old) or 'an unknown file'}, not from {', '.join(new)})"


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
    missing = [case for case in plan.cases if case.identifier not in plan.present]
    jobs = [Job(case, plan.folder, plan.file_ending, {}, plan.gray, copy, "") for case in missing]
    if missing:  # before the files: an interrupted call goes on, so no file may be of unknown origin
        origins = {case.identifier: plan.origin(case) for case in missing}
        write_json_atomically(plan.folder / ADDED, {**_added(plan.folder), **origins})
    old = {path for case in missing for path in plan.paths(case) if os.path.lexists(path)}
    outcomes = list(convert_all(jobs, processes, len(plan.cases)))
    failed = {outcome.case: outcome.failure for outcome in outcomes if outcome.record is None}
    for case in missing:
        if case.identifier in failed:  # the channels that were written before the one that failed
            for path in {*plan.paths(case)} - old:
                path.unlink(missing_ok=True)
    if failed and not skip_errors:
        heading = f"{len(failed)} of {len(plan.cases)} scans could not be added:"
        problems = [f"{case}: {failure}" for case, failure in failed.items()]
        raise DataError(
            f"{listing(heading, problems)}\nThe others were. Correct these and run the same command again, "
            "or add --skip-errors."
        )
    return len(outcomes) - len(failed)
