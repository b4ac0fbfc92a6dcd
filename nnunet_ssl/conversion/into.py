"""Add scans to ``imagesUn`` of a dataset that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.conversion.cases import Case, check_unique
from nnunet_ssl.conversion.convert_case import Job, targets
from nnunet_ssl.conversion.dataset_json import dataset_folder, list_images, read_dataset_json
from nnunet_ssl.conversion.folder import scans_of
from nnunet_ssl.conversion.folder_options import FolderOptions
from nnunet_ssl.conversion.images import PICTURES
from nnunet_ssl.conversion.writer import convert_all
from nnunet_ssl.errors import DataError


@dataclass(frozen=True)
class AddPlan:
    """Scans to add.

    Attributes:
        folder: of the dataset.
        file_ending: of its files.
        gray: pictures become gray.
        cases: to add.
        present: identifiers that are in imagesUn already.
    """

    folder: Path
    file_ending: str
    gray: bool
    cases: Sequence[Case]
    present: frozenset[str]

    def rows(self) -> list[tuple[str, str]]:
        """Rows of case and what is done with it."""
        return [(c.identifier, "is there" if c.identifier in self.present else "add") for c in self.cases]


def plan_into(folder: Path, dataset: str, options: FolderOptions) -> AddPlan:
    """Plan to add the scans of a folder; files whose names say that they are masks are left out.

    Raises:
        DataError: there is no such dataset, a scan has another number of channels than it, or bears the name
            of one of its labelled or test cases.
    """
    target = dataset_folder("raw", dataset)
    content = read_dataset_json(target)
    ending, channels = content["file_ending"], len(content["channel_names"])
    gray = not (ending in PICTURES and channels == 3)
    cases = scans_of(folder, options)
    check_unique(cases)
    files = channels if gray else 1
    for case in cases:
        if len(case.images) != files:
            raise DataError(
                f"Scan {case.identifier} has {len(case.images)} channel file(s), but {target.name} has "
                f"{files}. Unlabelled scans need the channels of the labelled ones."
            )
    for place in ("imagesTr", "imagesTs"):
        both = sorted({case.identifier for case in cases} & set(list_images(target / place, ending)))
        if both:
            raise DataError(
                f"{len(both)} scan(s) bear the name of a case in {place}: {', '.join(both[:5])}. A case can "
                "play one part only: rename the scans if they are others, or take them out."
            )
    there = {name for name, paths in list_images(target / "imagesUn", ending).items() if len(paths) == files}
    return AddPlan(target, ending, gray, cases, frozenset(there))


def add_unlabeled(plan: AddPlan, processes: int = 1, copy: bool = False, skip_errors: bool = False) -> int:
    """Write the scans; returns how many were added.

    Raises:
        DataError: some failed. The others are there, and a second call adds only what is missing.
    """
    (plan.folder / "imagesUn").mkdir(exist_ok=True)
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
