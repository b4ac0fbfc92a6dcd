"""Write a planned dataset: in parallel, resumable, and under its final name only when it is whole.

The dataset grows in a hidden folder beside its place. Each file gets its name when it is whole, and each case
a line in a log when its files are; so a conversion that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_ssl import __version__
from nnunet_ssl.conversion.cases import IMAGE_FOLDERS, LABEL_FOLDERS, fingerprint
from nnunet_ssl.conversion.convert_case import Job, Outcome, convert, targets
from nnunet_ssl.conversion.dataset_plan import (
    FILES,
    NAMES,
    RECORD,
    DatasetPlan,
    is_finished,
    stamps,
    target_folder,
)
from nnunet_ssl.conversion.merge_files import replace_folder
from nnunet_ssl.conversion.recipes import register
from nnunet_ssl.data.dataset_json import root_folder
from nnunet_ssl.errors import DataError, listing
from nnunet_ssl.json_files import write_json_atomically
from nnunet_ssl.parallel import run_jobs

LOG = "converted.jsonl"
SPLITS = "splits"


def write_dataset(
    plan: DatasetPlan,
    processes: int = 1,
    copy: bool = False,
    overwrite: bool = False,
    skip_errors: bool = False,
) -> tuple[Path, Counter[str]]:
    """Write a dataset into ``nnUNet_raw``.

    Args:
        plan: what to write.
        processes: workers.
        copy: copy files that are already right, rather than link them.
        overwrite: replace a dataset of that name that ``convert`` has made, if nothing else is in it.
        skip_errors: leave out cases that fail.

    Returns:
        Its folder, and how many files were ``linked``, ``hard-linked``, ``copied`` and ``converted``; nothing
        is counted where the dataset is there already.

    Raises:
        DataError: there is nothing to write, the name is taken, files that ``convert`` did not make
            would be lost, or cases failed: then nothing is at the final name, and the next call does not
            convert the others again.
    """
    _check_content(plan)
    prints = {case.identifier: fingerprint(case, {**plan.options(), "copy": copy}) for case in plan.cases}
    if is_finished(plan, prints):
        return root_folder("raw") / plan.name, Counter()
    folder = target_folder(plan.name, overwrite)
    building = folder.with_name(f".{folder.name}.building")
    for name in {*_folders(plan)}:
        (building / name).mkdir(parents=True, exist_ok=True)
    records = _completed(building, plan, prints)
    jobs = [
        Job(case, building, plan.file_ending, plan.values, plan.gray, copy, prints[case.identifier])
        for case in plan.cases
        if case.identifier not in records
    ]
    failures: list[Outcome] = []
    with (building / LOG).open("a", encoding="utf-8") as log:
        for outcome in convert_all(jobs, processes, len(plan.cases)):
            if outcome.record is None:
                failures.append(outcome)
                continue
            records[outcome.case] = outcome.record
            log.write(json.dumps(outcome.record) + "\n")
            log.flush()
    if failures and not skip_errors:
        raise DataError(_report(failures, len(plan.cases)))
    target_folder(plan.name, overwrite)  # once more: files may have come in the meantime
    _finish(plan, folder, building, records)
    return folder, Counter(how for record in records.values() for how in record["how"])


def _check_content(plan: DatasetPlan) -> None:
    if not plan.counts()["train"]:
        raise DataError(
            f"None of the {len(plan.cases)} scans has a label, so nnU-Net could plan nothing from "
            f"{plan.name}. Name the folder of the masks, or add the scans to the imagesUn folder of a "
            "labelled dataset (convert folder --into ID)."
        )


def _folders(plan: DatasetPlan) -> Iterator[str]:
    yield from ("imagesTr", "labelsTr")
    for case in plan.cases:
        yield IMAGE_FOLDERS[case.subset]
        if case.label is not None:
            yield LABEL_FOLDERS[case.subset]


def _completed(building: Path, plan: DatasetPlan, prints: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """Records of cases that an earlier call has written from the same files in the same way."""
    log = building / LOG
    files = {case.identifier: targets(case, plan.file_ending) for case in plan.cases}
    records = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when the process ended
            continue
        case = record["case"]
        if prints.get(case) == record["fingerprint"] and all((building / f).exists() for f in files[case]):
            records[case] = record
    return records


def convert_all(jobs: Sequence[Job], processes: int, total: int) -> Iterator[Outcome]:
    """Outcomes of all jobs as they come, with a progress bar over ``total`` cases."""
    outcomes = run_jobs(convert, jobs, processes, initializer=register)
    for _, outcome in tqdm(outcomes, "cases", total=total, initial=total - len(jobs), disable=None):
        yield outcome


def _report(failures: Sequence[Outcome], total: int) -> str:
    heading = f"{len(failures)} of {total} cases could not be converted:"
    return (
        f"{listing(heading, [f'{f.case}: {f.failure}' for f in failures])}\nCorrect these files and run "
        "the same command again (the other cases are kept and not converted again), or add --skip-errors to "
        "go on without them."
    )


def _finish(
    plan: DatasetPlan, folder: Path, building: Path, records: Mapping[str, Mapping[str, Any]]
) -> None:
    """Describe the dataset, sweep out what does not belong to it, and give it its name."""
    cases = [case for case in plan.cases if case.identifier in records]
    content = {**plan.dataset_json(), "numTraining": sum(case.subset == "train" for case in cases)}
    if not content["numTraining"]:
        raise DataError(f"No labelled case is left of {plan.name}: every one failed. See the messages above.")
    wanted = {file for case in cases for file in targets(case, plan.file_ending)}
    for path in [p for p in building.rglob("*") if not p.is_dir()]:
        if path.relative_to(building).as_posix() not in wanted:
            path.unlink()
    write_json_atomically(building / "dataset.json", content)
    for split in plan.splits:
        (building / SPLITS).mkdir(exist_ok=True)
        write_json_atomically(building / SPLITS / f"{split.name}.json", split.to_json({*records}))
    record = {
        "nnunet_ssl": __version__,
        "origin": plan.origin,
        NAMES: plan.names(),
        "cases": [records[c.identifier] for c in cases],
        FILES: stamps(building),
    }
    write_json_atomically(building / RECORD, record)
    for directory in [p for p in building.iterdir() if p.is_dir() and not any(p.iterdir())]:
        os.rmdir(directory)
    replace_folder(building, folder)
    shutil.rmtree(building, ignore_errors=True)
