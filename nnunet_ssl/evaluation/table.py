"""From scores of cases to what is shown: means for each label, task and dataset, as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from nnunet_ssl.evaluation.folder import CaseScores, Evaluation, LabelScores
from nnunet_ssl.evaluation.metrics import METRICS
from nnunet_ssl.tables import format_table


@dataclass(frozen=True)
class LabelSummary:
    """Scores of one label over the cases of its task.

    Attributes:
        task: name of the task that annotates the label.
        label: name of the label.
        n: cases scored.
        mean: metric name to mean over the cases where it is defined; NaN where it nowhere is.
        sd: the same for the standard deviation of the sample (n - 1); NaN for fewer than two cases.
        empty_prediction: cases with a reference and nothing predicted: Dice 0, no distance.
        empty_reference: cases where something is predicted and the reference is empty: Dice 0, no distance.
        both_empty: cases where both are empty: nothing is defined, Dice neither, as in nnU-Net.
    """

    task: str
    label: str
    n: int
    mean: dict[str, float]
    sd: dict[str, float]
    empty_prediction: int
    empty_reference: int
    both_empty: int


@dataclass(frozen=True)
class Summary:
    """Means over labels: of each task, and of all tasks together (nnU-Net's ``foreground_mean``)."""

    labels: list[LabelSummary]
    tasks: dict[str, dict[str, float]]
    overall: dict[str, float]


def summarise(evaluation: Evaluation) -> Summary:
    """Means of an evaluation; a label without any case is absent."""
    labels = []
    for prompt in evaluation.tasks.prompts:
        scored = [case.labels[prompt.label] for case in evaluation.cases if prompt.label in case.labels]
        if scored:
            labels.append(_summarise_label(evaluation.tasks.tasks[prompt.task].name, prompt.label, scored))
    tasks = {}
    for task in evaluation.tasks.tasks:
        mine = [label for label in labels if label.task == task.name]
        if mine:
            tasks[task.name] = _mean_of(mine)
    return Summary(labels, tasks, _mean_of(labels))


def show(evaluation: Evaluation) -> str:
    """The table that ``nnUNetv2_ssl evaluate`` prints, with a note on how to read it."""
    summary = summarise(evaluation)
    several = len(summary.tasks) > 1
    header = [
        "task",
        "label",
        "n",
        *_metric_names(evaluation.unit),
        "empty pred.",
        "empty ref.",
        "both empty",
    ]
    rows: list[list[object]] = [_label_row(label) for label in summary.labels]
    if several:
        rows += [_mean_row(task, "mean", mean) for task, mean in summary.tasks.items()]
    rows.append(_mean_row("all" if several else summary.labels[0].task, "mean of labels", summary.overall))
    notes = "Mean ± standard deviation over cases. Distances: over the cases where neither mask is empty."
    if evaluation.unit == "voxel":
        notes += " In voxels."
    return f"{format_table(rows, header)}\n{notes}"


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything, cases included, ready for JSON: what is not defined is null."""
    summary = summarise(evaluation)
    return {
        "unit": evaluation.unit,
        "mean": {
            "overall": _defined(summary.overall),
            "tasks": {task: _defined(mean) for task, mean in summary.tasks.items()},
            "labels": {label.label: _label_json(label) for label in summary.labels},
        },
        "warnings": evaluation.warnings,
        "cases": [_case_json(case) for case in evaluation.cases],
    }


def _summarise_label(task: str, label: str, scored: list[LabelScores]) -> LabelSummary:
    defined = {m: [s.values[m] for s in scored if not math.isnan(s.values[m])] for m in METRICS}
    return LabelSummary(
        task=task,
        label=label,
        n=len(scored),
        mean={m: _mean(values) for m, values in defined.items()},
        sd={m: stdev(values) if len(values) > 1 else math.nan for m, values in defined.items()},
        empty_prediction=sum(s.n_pred == 0 and s.n_ref > 0 for s in scored),
        empty_reference=sum(s.n_pred > 0 and s.n_ref == 0 for s in scored),
        both_empty=sum(s.n_pred == 0 and s.n_ref == 0 for s in scored),
    )


def _mean_of(labels: list[LabelSummary]) -> dict[str, float]:
    return {m: _mean(label.mean[m] for label in labels if not math.isnan(label.mean[m])) for m in METRICS}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return fmean(values) if values else math.nan


def _metric_names(unit: str) -> list[str]:
    """Column heads of ``METRICS``; distances say their unit."""
    short = "vox" if unit == "voxel" else "mm"
    return ["Dice", "Jaccard", f"95HD ({short})", f"ASD ({short})"]


def _label_row(label: LabelSummary) -> list[object]:
    values = [_spread(label.mean[m], label.sd[m], _digits(m)) for m in METRICS]
    return [
        label.task,
        label.label,
        label.n,
        *values,
        label.empty_prediction,
        label.empty_reference,
        label.both_empty,
    ]


def _mean_row(task: str, name: str, mean: dict[str, float]) -> list[object]:
    return [task, name, None, *(_spread(mean[m], math.nan, _digits(m)) for m in METRICS), None, None, None]


def _digits(metric: str) -> int:
    return 4 if metric in ("Dice", "Jaccard") else 2


def _spread(mean: float, sd: float, digits: int) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _defined(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _label_json(label: LabelSummary) -> dict[str, Any]:
    return {
        "task": label.task,
        "n": label.n,
        "mean": _defined(label.mean),
        "sd": _defined(label.sd),
        "empty_prediction": label.empty_prediction,
        "empty_reference": label.empty_reference,
        "both_empty": label.both_empty,
    }


def _case_json(case: CaseScores) -> dict[str, Any]:
    labels = {n: {**_defined(s.values), "n_pred": s.n_pred, "n_ref": s.n_ref} for n, s in case.labels.items()}
    return {"case": case.case, "task": case.task, "labels": labels}
