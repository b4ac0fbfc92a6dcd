"""Means over the cases: of each label, of each task, of all; with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from nnunet_ssl.evaluation import bootstrap
from nnunet_ssl.evaluation.folder import Evaluation, LabelScores

Interval = tuple[float, float]


@dataclass(frozen=True)
class LabelSummary:
    """Scores of one label over the cases of its task.

    Attributes:
        task: name of the task that annotates the label.
        label: name of the label.
        n: cases scored.
        mean: metric name to mean over the cases where it is defined; NaN where it nowhere is.
        sd: the same for the standard deviation of the sample (n - 1); NaN for fewer than two cases.
        interval: the same for the 95 % interval of the mean; NaN for fewer than two cases.
        empty_prediction: cases with a reference and nothing predicted: Dice 0, no distance.
        empty_reference: cases where something is predicted and the reference is empty: Dice 0, no distance.
        both_empty: cases where both are empty: nothing is defined, Dice neither, as in nnU-Net.
    """

    task: str
    label: str
    n: int
    mean: dict[str, float]
    sd: dict[str, float]
    interval: dict[str, Interval]
    empty_prediction: int
    empty_reference: int
    both_empty: int


@dataclass(frozen=True)
class Summary:
    """Means over labels: of each task, and of all tasks together (nnU-Net's ``foreground_mean``)."""

    labels: list[LabelSummary]
    tasks: dict[str, dict[str, float]]
    task_intervals: dict[str, dict[str, Interval]]
    overall: dict[str, float]
    overall_interval: dict[str, Interval]


def summarise(evaluation: Evaluation) -> Summary:
    """Means of an evaluation; a label without any case is absent."""
    metrics = evaluation.metrics
    present = [
        prompt
        for prompt in evaluation.tasks.prompts
        if any(prompt.label in case.labels for case in evaluation.cases)
    ]
    design = bootstrap.Design.of(
        [case.task for case in evaluation.cases], [case.group or case.case for case in evaluation.cases]
    )
    values = {
        metric: np.array(
            [
                [c.labels[p.label].values[metric] if p.label in c.labels else math.nan for p in present]
                for c in evaluation.cases
            ]
        )
        for metric in metrics
    }
    samples = {metric: bootstrap.resampled_means(values[metric], design) for metric in metrics}

    def intervals(mine: list[int]) -> dict[str, Interval]:
        return {m: bootstrap.mean_interval(values[m][:, mine], samples[m][:, mine], design) for m in metrics}

    labels = []
    for index, prompt in enumerate(present):
        scored = [case.labels[prompt.label] for case in evaluation.cases if prompt.label in case.labels]
        task = evaluation.tasks.tasks[prompt.task].name
        labels.append(_summarise_label(task, prompt.label, scored, intervals([index])))
    tasks, of_tasks = {}, {}
    for entry in evaluation.tasks.tasks:
        mine = [k for k, label in enumerate(labels) if label.task == entry.name]
        if mine:
            tasks[entry.name] = _mean_of([labels[k] for k in mine], metrics)
            of_tasks[entry.name] = intervals(mine)
    return Summary(labels, tasks, of_tasks, _mean_of(labels, metrics), intervals(list(range(len(labels)))))


def _summarise_label(
    task: str, label: str, scored: list[LabelScores], bounds: dict[str, Interval]
) -> LabelSummary:
    defined = {m: [s.values[m] for s in scored if not math.isnan(s.values[m])] for m in bounds}
    return LabelSummary(
        task=task,
        label=label,
        n=len(scored),
        mean={m: _mean(values) for m, values in defined.items()},
        sd={m: stdev(values) if len(values) > 1 else math.nan for m, values in defined.items()},
        interval=bounds,
        empty_prediction=sum(s.n_pred == 0 and s.n_ref > 0 for s in scored),
        empty_reference=sum(s.n_pred > 0 and s.n_ref == 0 for s in scored),
        both_empty=sum(s.n_pred == 0 and s.n_ref == 0 for s in scored),
    )


def _mean_of(labels: list[LabelSummary], metrics: Iterable[str]) -> dict[str, float]:
    return {m: _mean(label.mean[m] for label in labels if not math.isnan(label.mean[m])) for m in metrics}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return fmean(values) if values else math.nan
