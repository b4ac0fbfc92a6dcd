"""Score a folder of predictions against a folder of references, case by case.

Files are read with nnU-Net's own reader, so whatever it trains on can be scored. Everything that is wrong
with the files is collected and reported at once, each message with the file's name.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_ssl.errors import DataError, TaskError
from nnunet_ssl.evaluation.metrics import scores
from nnunet_ssl.tasks import IGNORE, LabelValue, Prompt, TaskTable

Unit = Literal["mm", "voxel"]

# Headers keep float32, and writers round: a hundredth of a voxel is no displacement.
_GEOMETRY_TOLERANCE = 0.01
_MAX_SHOWN = 20  # problems listed in one message


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
    """Scores of one case: only the labels that its task annotates, by name."""

    case: str
    task: str
    labels: dict[str, LabelScores]


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_folder`` returns.

    Attributes:
        cases: one entry for each case scored, in the order of their names.
        tasks: the tasks of the dataset.
        unit: what distances are measured in; ``voxel`` also where the file format knows no spacing.
        warnings: sentences about what was left out.
    """

    cases: list[CaseScores]
    tasks: TaskTable
    unit: Unit
    warnings: list[str]


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


def evaluate_folder(
    reference: Path,
    prediction: Path,
    dataset_json: Mapping[str, Any],
    unit: Unit = "mm",
    processes: int = 1,
    chill: bool = False,
) -> Evaluation:
    """Score every case of ``reference``.

    Args:
        reference: folder of label files, one for each case, named ``CASE`` + ``dataset_json["file_ending"]``.
        prediction: folder of predictions under the same names.
        dataset_json: the dataset's description: labels or regions, file ending, our block if it has one.
        unit: measure distances in mm or in voxels.
        processes: worker processes; 1 works in this one.
        chill: score the cases that are predicted, and only warn about the others.

    Raises:
        DataError: a folder is missing or empty, a prediction is missing, or files do not fit together. The
            message lists all of it.
    """
    tasks = TaskTable.from_dataset_json(dataset_json)
    ending = str(dataset_json["file_ending"])
    references, predictions = _find_files(reference, ending), _find_files(prediction, ending)
    missing, warnings = _match(references, predictions, prediction, ending)
    problems = [] if chill else missing
    warnings += missing if chill else []
    scored = {case: file for case, file in references.items() if case in predictions}
    if not scored:
        raise DataError(_listing(f"No case of {reference} is predicted in {prediction}:", missing))
    owners, foreign = _owners(scored, tasks)
    problems += foreign
    reader, unit = _reader(dataset_json, next(iter(references.values())), unit)
    known, ignore = _known_labels(dataset_json)
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
        )
        for case, owner in owners.items()
    ]
    cases, unfit = _run(jobs, processes)
    problems += unfit
    if problems:
        raise DataError(_listing(f"{prediction} cannot be scored against {reference}:", problems))
    return Evaluation(cases, tasks, unit, warnings)


def _find_files(folder: Path, ending: str) -> dict[str, Path]:
    """Case identifier to file, in the order of the names."""
    if not folder.is_dir():
        raise DataError(f"Folder {folder} does not exist.")
    files = sorted(f for f in folder.iterdir() if f.name.endswith(ending) and f.is_file())
    if not files:
        found = sorted({"".join(f.suffixes) or f.name for f in folder.iterdir() if f.is_file()})
        raise DataError(
            f"Folder {folder} holds no file that ends with '{ending}' (dataset.json['file_ending']); "
            f"found {'files that end with ' + ', '.join(found[:5]) if found else 'no files at all'}."
        )
    return {f.name[: -len(ending)]: f for f in files}


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


def _reader(dataset_json: Mapping[str, Any], example: Path, unit: Unit) -> tuple[type, Unit]:
    """nnU-Net's reader class for the files, and the unit that distances can have with it."""
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    said = io.StringIO()  # nnU-Net prints a traceback for every reader that does not fit
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            reader = determine_reader_writer_from_dataset_json(
                dict(dataset_json), str(example), verbose=False
            )
    except RuntimeError as error:
        raise DataError(
            f"{example}: no reader of nnU-Net can open it. {_last_line(said.getvalue())}"
        ) from error
    # png and the like know no spacing: nnU-Net says (999, 1, 1), which is not mm
    return reader, "voxel" if issubclass(reader, NaturalImage2DIO) else unit


def _known_labels(dataset_json: Mapping[str, Any]) -> tuple[frozenset[int], int | None]:
    """Every label value that dataset.json names, without the ignore label, and the ignore label."""
    labels = dataset_json["labels"]
    known = {0}
    for name, value in labels.items():
        if name != IGNORE:
            known.update(int(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
    ignore = labels.get(IGNORE)
    return frozenset(known), None if ignore is None else int(ignore)


def _run(jobs: list[_Job], processes: int) -> tuple[list[CaseScores], list[str]]:
    """Score all cases; what is wrong with files comes back as text, so that one bad case hides no other."""
    cases: list[CaseScores] = []
    problems: list[str] = []
    with tqdm(total=len(jobs), desc="Scoring", unit="case", disable=None) as bar:
        for result, found in _results(jobs, processes):
            problems += found
            if result is not None:
                cases.append(result)
            bar.update()
    return cases, problems


def _results(jobs: list[_Job], processes: int) -> Iterator[tuple[CaseScores | None, list[str]]]:
    workers = min(processes, len(jobs))
    if workers <= 1:
        yield from map(_score_case, jobs)
        return
    try:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield from pool.map(_score_case, jobs)
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process died, most likely for want of memory. Try a smaller -np."
        ) from error


def _score_case(job: _Job) -> tuple[CaseScores | None, list[str]]:
    """Scores of one case, or what is wrong with its files."""
    problems: list[str] = []
    reference, geometry = _read(job.reference, job, problems, allowed=job.ignore)
    prediction, found = _read(job.prediction, job, problems, allowed=None)
    if reference is None or prediction is None:
        return None, problems
    if reference.shape != prediction.shape:
        problems.append(f"{job.prediction}: shape {prediction.shape}, the reference has {reference.shape}")
    problems += [f"{job.prediction}: {text}" for text in geometry_differences(geometry, found)]
    if problems:
        return None, problems
    left_out = reference == job.ignore if job.ignore is not None else None
    spacing = None if job.unit == "voxel" else [float(s) for s in geometry["spacing"]]
    labels = {p.label: _score_label(prediction, reference, p.value, left_out, spacing) for p in job.prompts}
    return CaseScores(job.case, job.task, labels), []


def _read(
    file: Path, job: _Job, problems: list[str], allowed: int | None
) -> tuple[NDArray[np.int64] | None, dict[str, Any]]:
    """Label map (Z, Y, X) and geometry of one file; ``None`` and a problem unless it maps known labels."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the tif reader comments on each file
            array, geometry = job.reader().read_seg(str(file))
    except Exception as error:  # whatever the reader's library raises, the user needs the file's name
        problems.append(f"{file}: cannot be read ({_last_line(str(error))})")
        return None, {}
    if len(array) != 1:
        problems.append(f"{file}: holds {len(array)} channels, expected a map of labels")
        return None, geometry
    foreign = [v for v in _values(array[0]) if v not in job.known and v != allowed]
    if foreign:
        shown = ", ".join(f"{v:g}" for v in foreign[:5]) + (" ..." if len(foreign) > 5 else "")
        known = ", ".join(map(str, sorted(job.known)))
        problems.append(f"{file}: holds label(s) {shown}; dataset.json knows {known}")
        return None, geometry
    return array[0].astype(np.int64), geometry


def _values(array: NDArray[Any]) -> list[float]:
    """The values that occur in ``array``, ascending."""
    if array.min() >= 0 and array.max() < 2**16:  # counting is much faster than sorting
        whole = array.astype(np.int64)
        if (whole == array).all():
            return [float(v) for v in np.flatnonzero(np.bincount(whole.ravel()))]
    return [float(v) for v in np.unique(array)]


def _score_label(
    prediction: NDArray[np.int64],
    reference: NDArray[np.int64],
    value: LabelValue,
    left_out: NDArray[np.bool_] | None,
    spacing: list[float] | None,
) -> LabelScores:
    masks = [np.isin(array, value) for array in (prediction, reference)]
    if left_out is not None:
        masks = [mask & ~left_out for mask in masks]
    # nnU-Net's readers give 2D images a first axis of length 1, along which every voxel would be surface
    kept = [axis for axis, length in enumerate(reference.shape) if length > 1]
    flat = [mask.squeeze() for mask in masks]
    values = scores(flat[0], flat[1], None if spacing is None else [spacing[axis] for axis in kept])
    return LabelScores(values, int(masks[0].sum()), int(masks[1].sum()))


def geometry_differences(reference: Mapping[str, Any], prediction: Mapping[str, Any]) -> list[str]:
    """What differs between the geometries of two files, as nnU-Net's reader gives them.

    Compares spacing, and origin, direction or affine where the reader knows them, with a tolerance of a
    hundredth of a voxel.

    Returns:
        One phrase for each difference, such as ``spacing (1, 1, 2), the reference has (1, 1, 1)``.
    """
    tolerance = _GEOMETRY_TOLERANCE * float(np.min(reference["spacing"]))
    numbers = _numbers(reference), _numbers(prediction)
    differences = []
    for key in sorted(numbers[0].keys() | numbers[1].keys()):
        expected, found = (n.get(key, np.empty(0)) for n in numbers)
        # a cosine acts on the whole width of a scan, hence a stricter tolerance for direction
        atol = _GEOMETRY_TOLERANCE / 10 if key == "direction" else tolerance
        if expected.shape != found.shape or not np.allclose(expected, found, rtol=0, atol=atol):
            differences.append(f"{key} {_show(found)}, the reference has {_show(expected)}")
    return differences


def _numbers(properties: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The numeric entries of a reader's properties, whether at the top or in its own sub-dictionary."""
    entries = dict(properties)
    for value in properties.values():
        if isinstance(value, Mapping):
            entries.update({k: v for k, v in value.items() if k != "spacing"})
    numeric = {k: v for k, v in entries.items() if not isinstance(v, (str, Mapping))}
    return {k: np.asarray(v, dtype=np.float64).ravel() for k, v in numeric.items()}


def _show(values: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"


def _listing(heading: str, problems: list[str]) -> str:
    shown = problems[:_MAX_SHOWN]
    more = [f"... and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
    return "\n".join([heading, *(f"  {p}" for p in shown + more)])


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"
