"""Scores of many cases as arrays: what intervals and comparisons are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.conversion.split import group_key
from nnunet_ssl.errors import DataError, few
from nnunet_ssl.evaluation.bootstrap import Design

# Larger is better for all but these.
SMALLER_IS_BETTER = ("HD95", "ASD", "HD95_voxel", "ASD_voxel")
OVERLAPS = ("Dice", "Jaccard")


@dataclass(frozen=True)
class Scores:
    """Scores of one model (or of the mean of several) on a set of cases.

    Attributes:
        cases: their identifiers.
        tasks: the task of each case.
        labels: names of the labels whose task has a case.
        label_tasks: the task that annotates each label.
        values: metric to (cases, labels), NaN where it is not defined or the label is not annotated.
        n_ref: (cases, labels) reference voxels, NaN where the label is not annotated.
        n_pred: the same of predicted voxels.
        both_empty: (cases, labels) share of the runs in which prediction and reference are both empty, NaN
            where the label is not annotated. Such a run is right, and undefined in ``values``.
        unit: of the distances.
        groups: what each case belongs to, such as its patient: cases of a group are not independent. Empty
            if each stands for itself.
    """

    cases: tuple[str, ...]
    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    label_tasks: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    n_ref: NDArray[np.float64]
    n_pred: NDArray[np.float64]
    both_empty: NDArray[np.float64]
    unit: str = "mm"
    groups: tuple[str, ...] = ()

    @property
    def design(self) -> Design:
        """What is independent of each other, for intervals and tests."""
        return Design.of(self.tasks, self.groups or self.cases)

    def grouped(self, regex: str | None) -> Scores:
        """The same with the groups that a regular expression finds in the names; ``None`` changes nothing."""
        groups = self.groups if regex is None else tuple(group_key(case, regex) for case in self.cases)
        return replace(self, groups=groups)

    def select(self, cases: Sequence[str]) -> Scores:
        """The same of some cases, in their order; labels whose task has none of them are left out."""
        rows = [self.cases.index(case) for case in cases]
        tasks = tuple(self.tasks[row] for row in rows)
        columns = [k for k, task in enumerate(self.label_tasks) if task in tasks]
        chosen = np.ix_(rows, columns)
        return Scores(
            tuple(cases),
            tasks,
            tuple(self.labels[k] for k in columns),
            tuple(self.label_tasks[k] for k in columns),
            {metric: array[chosen] for metric, array in self.values.items()},
            self.n_ref[chosen],
            self.n_pred[chosen],
            self.both_empty[chosen],
            self.unit,
            tuple(self.groups[row] for row in rows if self.groups),
        )

    def for_pairs(self, metric: str) -> NDArray[np.float64]:
        """(cases, labels) as ``values``, but an overlap is 1 in each run that rightly predicts nothing."""
        values = self.values[metric]
        if metric not in OVERLAPS:
            return values
        return np.where(self.both_empty == 1, 1.0, self.both_empty + (1 - self.both_empty) * values)


def scores_from_json(content: Mapping[str, Any], where: str = "evaluation.json") -> Scores:
    """Read what ``nnUNetv2_ssl evaluate`` wrote.

    Raises:
        DataError: it is something else.
    """
    try:
        summaries: Mapping[str, Any] = content["mean"]["labels"]
        labels = tuple(summaries)
        cases: Sequence[Mapping[str, Any]] = content["cases"]
        first = next(iter(cases[0]["labels"].values()))
        metrics = [key for key in first if key not in ("n_pred", "n_ref")]

        def column(key: str) -> NDArray[np.float64]:
            rows = [[_number(case["labels"].get(label, {}).get(key)) for label in labels] for case in cases]
            return np.array(rows, dtype=np.float64).reshape(len(cases), len(labels))

        n_ref, n_pred = column("n_ref"), column("n_pred")
        return Scores(
            cases=tuple(case["case"] for case in cases),
            tasks=tuple(case["task"] for case in cases),
            labels=labels,
            label_tasks=tuple(summaries[label]["task"] for label in labels),
            values={metric: column(metric) for metric in metrics},
            n_ref=n_ref,
            n_pred=n_pred,
            both_empty=np.where(np.isnan(n_ref), np.nan, n_ref + n_pred == 0),
            unit=content["unit"],
            groups=tuple(case["group"] for case in cases if "group" in case),
        )
    except (KeyError, TypeError, IndexError, StopIteration) as error:
        raise DataError(
            f"{where} was not written by 'nnUNetv2_ssl evaluate' (no {error}). Evaluate the predictions anew."
        ) from error


def average(runs: Sequence[Scores]) -> Scores:
    """Mean of several runs on the same cases, case by case, over the runs where a score is defined.

    Raises:
        DataError: the runs were scored on different cases or labels.
    """
    first = runs[0]
    if len(runs) == 1:
        return first
    for other in runs[1:]:
        if set(other.cases) != set(first.cases) or other.labels != first.labels:
            odd = sorted(set(other.cases) ^ set(first.cases)) or [*other.labels]
            raise DataError(
                f"Runs can be averaged on the same cases and labels only; they differ in {few(odd)}."
            )
    aligned = [run.select(first.cases) for run in runs]
    return Scores(
        first.cases,
        first.tasks,
        first.labels,
        first.label_tasks,
        {m: _nanmean(np.stack([run.values[m] for run in aligned])) for m in first.values},
        first.n_ref,
        _nanmean(np.stack([run.n_pred for run in aligned])),
        _nanmean(np.stack([run.both_empty for run in aligned])),
        first.unit,
        first.groups,
    )


def concatenate(parts: Sequence[Scores]) -> Scores:
    """Scores of disjoint sets of cases as one.

    Raises:
        DataError: the parts know different labels.
    """
    first = parts[0]
    labels = tuple(dict.fromkeys(label for part in parts for label in part.labels))
    owners = {
        label: task for part in parts for label, task in zip(part.labels, part.label_tasks, strict=True)
    }

    def widened(part: Scores, array: NDArray[np.float64]) -> NDArray[np.float64]:
        # A label whose task has no case in a part is absent from it
        wide = np.full((len(part.cases), len(labels)), np.nan)
        wide[:, [labels.index(label) for label in part.labels]] = array
        return wide

    return Scores(
        tuple(case for part in parts for case in part.cases),
        tuple(task for part in parts for task in part.tasks),
        labels,
        tuple(owners[label] for label in labels),
        {m: np.concatenate([widened(part, part.values[m]) for part in parts]) for m in first.values},
        np.concatenate([widened(part, part.n_ref) for part in parts]),
        np.concatenate([widened(part, part.n_pred) for part in parts]),
        np.concatenate([widened(part, part.both_empty) for part in parts]),
        first.unit,
        tuple(group for part in parts for group in part.groups),
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _nanmean(stack: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis without NaN; NaN where all are."""
    defined = ~np.isnan(stack)
    result = np.full(stack.shape[1:], np.nan)
    np.divide(np.where(defined, stack, 0).sum(0), defined.sum(0), out=result, where=defined.any(0))
    return result
