"""See before any training whether every test case can be scored after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from tqdm import tqdm

from nnunet_ssl.benchmark.plan import Plan
from nnunet_ssl.benchmark.source import ImagesAndLabel, Source
from nnunet_ssl.errors import DataError, listing
from nnunet_ssl.evaluation.reading import (
    find_reader,
    geometry_differences,
    known_labels,
    note_displaced,
    read_geometry,
    read_labels,
)
from nnunet_ssl.parallel import run_jobs

_FEW = 20  # labels that are read sooner than processes start


@dataclass(frozen=True)
class _Job:
    """What is needed to compare the label of one case with its scan."""

    image: Path
    label: Path
    reader: type
    allowed: frozenset[int]


def check_references(plan: Plan, source: Source, processes: int) -> list[str]:
    """Compare each test label with its scan, as the scoring will: a prediction lies on the grid of its scan.

    Args:
        plan: the benchmark.
        source: the user's dataset.
        processes: worker processes; labels are read whole.

    Returns:
        Sentences about what is odd, and need not be corrected.

    Raises:
        DataError: a label has another shape, spacing or place than its scan, or values that dataset.json does
            not know, or a file cannot be read.
    """
    cases = _tested(plan, source)
    if not cases:
        return []
    reader = find_reader(source.dataset_json, [label for _, label in cases.values()])
    known, ignore = known_labels(source.dataset_json)
    allowed = known if ignore is None else known | {ignore}
    jobs = [_Job(images[0], label, reader, allowed) for images, label in cases.values()]
    done = run_jobs(_look, jobs, processes, few=_FEW)
    done = tqdm(done, total=len(jobs), desc="Checking test labels", unit="case", disable=None)
    results = [result for _, result in sorted(done, key=itemgetter(0))]
    problems = [text for found, _ in results for text in found]
    if problems:
        bad = sum(bool(found) for found, _ in results)
        heading = f"{bad} of {len(jobs)} test case(s) could not be scored after the trainings:"
        raise DataError(f"{listing(heading, problems)}\nCorrect the files, or name other cases with --test.")
    return note_displaced("test label(s)", "scan", [text for _, found in results for text in found])


def _tested(plan: Plan, source: Source) -> Mapping[str, ImagesAndLabel]:
    """Channel files and label file of each case that any part tests."""
    there = source.test if plan.settings.test == "imagesTs" else source.training
    return {case: there[case] for part in plan.tests for case in part}


def _look(job: _Job) -> tuple[list[str], list[str]]:
    """What keeps a case from being scored, and what is odd about it."""
    problems: list[str] = []
    labels, geometry = read_labels(job.label, job.reader, job.allowed, problems)
    try:
        shape, expected = read_geometry(job.image, job.reader)
    except DataError as error:
        return [*problems, str(error)], []
    if labels is None:
        return problems, []
    if labels.shape != shape:
        return [f"{job.label}: shape {labels.shape}, its scan has {shape}"], []
    wrong, odd = geometry_differences(expected, geometry, "its scan")
    return [f"{job.label}: {text}" for text in wrong], [f"{job.label}: {', '.join(odd)}"] if odd else []
