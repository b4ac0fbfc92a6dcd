"""Score a folder of predictions against a folder of references, case by case.

Everything that is wrong with the files is collected, each message with the file's name; the other cases are
scored all the same. A worker holds one case at a time, so memory is bounded by the number of workers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_ssl.conversion.split import group_key
from nnunet_ssl.errors import DataError, TaskError, listing
from nnunet_ssl.evaluation.metrics import METRICS, scores
from nnunet_ssl.evaluation.reading import (
    LabelMap,
    find_files,
    find_reader,
    geometry_differences,
    known_labels,
    knows_spacing,
    note_displaced,
    read_labels,
)
from nnunet_ssl.parallel import run_jobs
from nnunet_ssl.tasks import LabelValue, Prompt, TaskTable

Unit = Literal["mm", "voxel", "both"]

_VOXEL_METRICS = {"HD95": "HD95_voxel", "ASD": "ASD_voxel"}  # beside those in mm, with unit "both"


@dataclass(frozen=True)
class LabelScores:
    """Scores of one label in one case.

    Attributes:
        values: metric name to value; distances are NaN if a mask is empty, all are if both are.
        n_pred: predicted voxels.
        n_ref: reference voxels.
    """

    values: dict[str, float]
    n_pred: int
    n_ref: int


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case: only the labels that its task annotates, by name.

    ``group`` names what it belongs to, such as its patient; ``None`` if cases are not grouped.
    """

    case: str
    task: str
    labels: dict[str, LabelScores]
    group: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_folder`` returns.

    Attributes:
        cases: one entry for each case scored, in the order of their names.
        tasks: the tasks of the dataset.
        unit: what distances are measured in; ``voxel`` also where the file format knows no spacing.
        warnings: sentences about what was left out, and need not be scored.
        problems: sentences about what should have been scored and could not.
    """

    cases: list[CaseScores]
    tasks: TaskTable
    unit: Unit
    warnings: list[str]
    problems: list[str] = field(default_factory=list)

    @property
    def grouped(self) -> bool:
        """Whether cases belong to groups."""
        return any(case.group is not None for case in self.cases)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics; with ``both``, HD95 and ASD are in mm and have a twin in voxels."""
        return (*METRICS, *_VOXEL_METRICS.values()) if self.unit == "both" else METRICS


@dataclass(frozen=True)
class _Job:
    """All that a worker needs for one case."""

    case: str
    task: str
    reference: Path
    prediction: Path
    reader: type
    prompts: tuple[Prompt, ...]
    known: frozenset[int]
    ignore: int | None
    unit: Unit
    group: str | None


def evaluate_folder(
    reference: Path,
    prediction: Path,
    dataset_json: Mapping[str, Any],
    unit: Unit = "mm",
    processes: int = 1,
    chill: bool = False,
    group_regex: str | None = None,
) -> Evaluation:
    """Score every case of ``reference`` that can be scored.

    Args:
        reference: folder of label files, one for each case, named ``CASE`` + ``dataset_json["file_ending"]``.
        prediction: folder of predictions under the same names.
        dataset_json: the dataset's description: labels or regions, file ending, our block if it has one.
        unit: measure distances in mm, in voxels, or both.
        processes: worker processes; 1 works in this one.
        chill: a missing prediction is a warning rather than a problem.
        group_regex: finds in a case's name what it belongs to, such as its patient; see ``group_key``.

    Raises:
        ConfigError: ``group_regex`` is no regular expression.
        DataError: a folder is missing or empty, ``group_regex`` does not match a case, or no case at all can
            be scored. The message lists why.
    """
    tasks = TaskTable.from_dataset_json(dataset_json)
    ending = str(dataset_json["file_ending"])
    references, predictions = find_files(reference, ending), find_files(prediction, ending)
    missing, warnings = _match(references, predictions, prediction, ending)
    problems = [] if chill else missing
    warnings += missing if chill else []
    scored = {case: file for case, file in references.items() if case in predictions}
    if not scored:
        raise DataError(listing(f"No case of {reference} is predicted in {prediction}:", missing))
    owners, foreign = _owners(scored, tasks)
    reader = find_reader(dataset_json, list(references.values()))
    unit = unit if knows_spacing(reader) else "voxel"
    known, ignore = known_labels(dataset_json)
    jobs = [
        _Job(
            case=case,
            task=tasks.tasks[owner].name,
            reference=scored[case],
            prediction=predictions[case],
            reader=reader,
            prompts=tuple(tasks.prompts[k] for k in tasks.prompts_of(owner)),
            known=known,
            ignore=ignore,
            unit=unit,
            group=None if group_regex is None else group_key(case, group_regex),
        )
        for case, owner in owners.items()
    ]
    cases, unfit, displaced = _run(jobs, processes)
    problems = [*problems, *foreign, *unfit]
    warnings += note_displaced("prediction(s)", "reference", displaced)
    if not cases:
        raise DataError(listing(f"{prediction} cannot be scored against {reference}:", problems))
    return Evaluation(cases, tasks, unit, warnings, problems)


def _match(
    references: Mapping[str, Path], predictions: Mapping[str, Path], folder: Path, ending: str
) -> tuple[list[str], list[str]]:
    """What is said about references without a prediction, and about predictions without a reference."""
    extra = [case for case in predictions if case not in references]
    missing = []
    for case in references:
        if case not in predictions:
            alike = difflib.get_close_matches(case, extra, n=1, cutoff=0.8)
            hint = f" (is {alike[0]}{ending} misnamed?)" if alike else ""
            missing.append(f"{folder / (case + ending)}: prediction missing{hint}")
    warnings = [f"{predictions[case]}: no reference of this name, not scored" for case in extra]
    return missing, warnings


def _owners(cases: Iterable[str], tasks: TaskTable) -> tuple[dict[str, int], list[str]]:
    """The task of each case, and what is said about cases that belong to none."""
    owners, problems = {}, []
    for case in cases:
        try:
            owners[case] = tasks.task_of(case)
        except TaskError as error:
            problems.append(str(error))
    return owners, problems


def _run(jobs: list[_Job], processes: int) -> tuple[list[CaseScores], list[str], list[str]]:
    """Score all cases; what is wrong with files comes back as text, so that one bad case hides no other.

    Returns:
        Scores, what kept cases from being scored, and what is odd about those that were.
    """
    done = tqdm(
        run_jobs(_score_case, jobs, processes), total=len(jobs), desc="Scoring", unit="case", disable=None
    )
    results = [result for _, result in sorted(done, key=itemgetter(0))]
    return (
        [scored for scored, _ in results if scored is not None],
        [problem for scored, found in results if scored is None for problem in found],
        [remark for scored, found in results if scored is not None for remark in found],
    )


def _score_case(job: _Job) -> tuple[CaseScores | None, list[str]]:
    """Scores of one case and what is odd about its files, or what is wrong with them."""
    problems: list[str] = []
    allowed = job.known if job.ignore is None else job.known | {job.ignore}
    reference, geometry = read_labels(job.reference, job.reader, allowed, problems)
    prediction, found = read_labels(job.prediction, job.reader, job.known, problems)
    if reference is None or prediction is None:
        return None, problems
    if reference.shape != prediction.shape:
        problems.append(f"{job.prediction}: shape {prediction.shape}, the reference has {reference.shape}")
    wrong, odd = geometry_differences(geometry, found)
    problems += [f"{job.prediction}: {text}" for text in wrong]
    if problems:
        return None, problems
    left_out = reference == job.ignore if job.ignore is not None else None
    sizes = None if job.unit == "voxel" else [float(s) for s in geometry["spacing"]]
    labels = {
        p.label: _score_label(prediction, reference, p.value, left_out, sizes, job.unit == "both")
        for p in job.prompts
    }
    remarks = [f"{job.prediction}: {text}" for text in odd]
    return CaseScores(job.case, job.task, labels, job.group), remarks


def _score_label(
    prediction: LabelMap,
    reference: LabelMap,
    value: LabelValue,
    left_out: NDArray[np.bool_] | None,
    spacing: list[float] | None,
    both_units: bool,
) -> LabelScores:
    masks = [np.isin(array, value) for array in (prediction, reference)]
    if left_out is not None:
        masks = [mask & ~left_out for mask in masks]
    # nnU-Net's readers give 2D images a first axis of length 1, along which every voxel would be surface
    kept = [axis for axis, length in enumerate(reference.shape) if length > 1]
    flat = [mask.squeeze() for mask in masks]
    values = scores(flat[0], flat[1], None if spacing is None else [spacing[axis] for axis in kept])
    if both_units:
        in_voxels = scores(flat[0], flat[1])
        values |= {twin: in_voxels[metric] for metric, twin in _VOXEL_METRICS.items()}
    return LabelScores(values, int(masks[0].sum()), int(masks[1].sum()))
