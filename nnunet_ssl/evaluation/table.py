"""The tables that ``nnUNetv2_ssl evaluate`` prints."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from nnunet_ssl.evaluation import bootstrap
from nnunet_ssl.evaluation.compare import OVERALL, Comparison
from nnunet_ssl.evaluation.folder import Evaluation
from nnunet_ssl.evaluation.scores import SMALLER_IS_BETTER
from nnunet_ssl.evaluation.summary import Interval, LabelSummary, summarise
from nnunet_ssl.tables import format_table

_HEADS = {
    "HD95": "95HD (mm)",
    "ASD": "ASD (mm)",
    "HD95_voxel": "95HD (vox)",
    "ASD_voxel": "ASD (vox)",
}


def show(evaluation: Evaluation) -> str:
    """The table that ``nnUNetv2_ssl evaluate`` prints, with a note on how to read it."""
    summary = summarise(evaluation)
    metrics = evaluation.metrics
    several = len(summary.tasks) > 1
    labels = Counter(label.task for label in summary.labels)
    means = [task for task in summary.tasks if several and labels[task] > 1]
    heads = [_head(metric, evaluation.unit) for metric in metrics]
    header = ["task", "label", "n", *heads, "empty pred.", "empty ref.", "both empty"]
    rows: list[list[object]] = [_label_row(label, metrics) for label in summary.labels]
    rows += [_mean_row(task, "mean", summary.tasks[task], metrics) for task in means]
    last = ("all" if several else summary.labels[0].task, OVERALL)
    rows.append(_mean_row(*last, summary.overall, metrics))
    bounds: list[list[object]] = [
        [label.task, label.label, *(_bounds(label.interval[m], _digits(m)) for m in metrics)]
        for label in summary.labels
    ]
    for task in means:
        interval = summary.task_intervals[task]
        bounds.append([task, "mean", *(_bounds(interval[m], _digits(m)) for m in metrics)])
    bounds.append([*last, *(_bounds(summary.overall_interval[m], _digits(m)) for m in metrics)])
    notes = "Mean ± standard deviation over cases. Distances: over the cases where neither mask is empty."
    if evaluation.unit == "voxel":
        notes += " In voxels."
    return (
        f"{format_table(rows, header)}\n{notes}\n\n"
        f"95 % intervals of the mean ({bootstrap.method(evaluation.grouped)}):\n"
        f"{format_table(bounds, ['task', 'label', *heads])}"
    )


def show_comparison(comparisons: list[Comparison], names: tuple[str, str], unit: str = "mm") -> str:
    """The table of ``nnUNetv2_ssl evaluate --compare``, with a sentence on the mean Dice."""
    counts = ["pairs", "left out", "both empty"]
    header = ["metric", "label", *counts, "A", "B", "B - A", "95 % interval", "p"]
    rows: list[list[object]] = []
    for c in comparisons:
        digits = _digits(c.metric)
        numbers = [_spread(value, math.nan, digits) for value in (c.mean_a, c.mean_b)]
        difference = "-" if math.isnan(c.difference) else f"{c.difference:+.{digits}f}"
        bounds = _bounds((c.low, c.high), digits)
        about = [_head(c.metric, unit), c.label, c.size, c.left_out, c.both_empty]
        rows.append([*about, *numbers, difference, bounds, _p(c.p)])
    overall = next(c for c in comparisons if c.metric == "Dice" and c.label == OVERALL)
    grouped = any(c.groups != c.n for c in comparisons)
    of_groups = " of the groups' means" if grouped else ""
    return (
        f"A: {names[0]}\nB: {names[1]}\n{format_table(rows, header)}\n"
        f"Paired differences; intervals: {bootstrap.method(grouped)}; p: Wilcoxon signed-rank test"
        f"{of_groups}, two-sided, not corrected for the number of rows. An empty prediction of an empty "
        "reference: Dice and Jaccard 1 "
        f"where the other model has a false alarm, no pair where both are empty.\n{_sentence(overall)}"
    )


def _head(metric: str, unit: str) -> str:
    """Column head of a metric; distances say their unit."""
    return _HEADS.get(f"{metric}_voxel" if unit == "voxel" else metric, metric)


def _label_row(label: LabelSummary, metrics: Iterable[str]) -> list[object]:
    values = [_spread(label.mean[m], label.sd[m], _digits(m)) for m in metrics]
    counts = [label.empty_prediction, label.empty_reference, label.both_empty]
    return [label.task, label.label, label.n, *values, *counts]


def _mean_row(task: str, name: str, mean: dict[str, float], metrics: Iterable[str]) -> list[object]:
    return [task, name, None, *(_spread(mean[m], math.nan, _digits(m)) for m in metrics), None, None, None]


def _digits(metric: str) -> int:
    return 2 if metric in SMALLER_IS_BETTER else 4


def _bounds(interval: Interval, digits: int) -> str:
    low, high = interval
    return "-" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"


def _p(p: float) -> str:
    if math.isnan(p):
        return "-"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _sentence(overall: Comparison) -> str:
    """What the mean Dice says, in words."""
    if not overall.can_show():
        return f"Mean Dice: {overall.size} pairs are too few to tell."
    bounds = _bounds((overall.low, overall.high), 4)
    what = f"{overall.difference:+.4f} {bounds}, p = {_p(overall.p)}, {overall.size} cases"
    if overall.shown():
        return f"Mean Dice: B is {'better' if overall.shown() > 0 else 'worse'} than A ({what})."
    if overall.difference * overall.ranks < 0:
        what += "; most cases differ the other way"
    return f"Mean Dice: no difference shown between A and B ({what})."


def _spread(mean: float, sd: float, digits: int) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"
