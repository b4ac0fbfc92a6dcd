"""Scores and comparisons as files: JSON with everything, CSV with one row for each label of each case."""

from __future__ import annotations

import math
from typing import Any

from nnunet_ssl.evaluation import bootstrap
from nnunet_ssl.evaluation.compare import Comparison
from nnunet_ssl.evaluation.folder import CaseScores, Evaluation
from nnunet_ssl.evaluation.summary import Interval, LabelSummary, summarise


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything, cases included, ready for JSON: what is not defined is null."""
    summary = summarise(evaluation)
    return {
        "unit": evaluation.unit,
        "intervals": f"95 %, {bootstrap.method(evaluation.grouped)}",
        "mean": {
            "overall": _defined(summary.overall),
            "overall_interval": _defined_bounds(summary.overall_interval),
            "tasks": {task: _defined(mean) for task, mean in summary.tasks.items()},
            "task_intervals": {task: _defined_bounds(b) for task, b in summary.task_intervals.items()},
            "labels": {label.label: _label_json(label) for label in summary.labels},
        },
        "warnings": evaluation.warnings,
        "problems": evaluation.problems,
        "cases": [_case_json(case) for case in evaluation.cases],
    }


def comparison_json(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """Ready for JSON: what is not defined is null."""
    rows = []
    for c in comparisons:
        numbers = {"A": c.mean_a, "B": c.mean_b, "difference": c.difference, "low": c.low, "high": c.high}
        counts = {"pairs": c.n, "groups": c.groups, "left_out": c.left_out, "both_empty": c.both_empty}
        about = {"metric": c.metric, "label": c.label, **counts}
        rows.append({**about, **_defined({**numbers, "p": c.p, "ranks": c.ranks})})
    return rows


def csv_rows(evaluation: Evaluation) -> list[dict[str, object]]:
    """One row for each label of each case; an undefined score is empty."""
    rows: list[dict[str, object]] = []
    for case in evaluation.cases:
        for name, label in case.labels.items():
            values = {m: "" if math.isnan(v) else v for m, v in label.values.items()}
            counts = {"n_pred": label.n_pred, "n_ref": label.n_ref}
            rows.append({"case": case.case, "task": case.task, "label": name, **values, **counts})
    return rows


def _defined(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _defined_bounds(bounds: dict[str, Interval]) -> dict[str, list[float] | None]:
    return {name: None if math.isnan(low) else [low, high] for name, (low, high) in bounds.items()}


def _label_json(label: LabelSummary) -> dict[str, Any]:
    return {
        "task": label.task,
        "n": label.n,
        "mean": _defined(label.mean),
        "sd": _defined(label.sd),
        "interval": _defined_bounds(label.interval),
        "empty_prediction": label.empty_prediction,
        "empty_reference": label.empty_reference,
        "both_empty": label.both_empty,
    }


def _case_json(case: CaseScores) -> dict[str, Any]:
    labels = {n: {**_defined(s.values), "n_pred": s.n_pred, "n_ref": s.n_ref} for n, s in case.labels.items()}
    group = {"group": case.group} if case.group is not None else {}
    return {"case": case.case, **group, "task": case.task, "labels": labels}
