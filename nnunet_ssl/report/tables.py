"""The tables of a report: every metric of every method, and the Dice of every label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_ssl.benchmark.plan import ALL, BASELINE
from nnunet_ssl.evaluation import bootstrap
from nnunet_ssl.evaluation.compare import OVERALL, compare
from nnunet_ssl.evaluation.metrics import METRICS
from nnunet_ssl.evaluation.scores import SMALLER_IS_BETTER, Scores
from nnunet_ssl.report.answers import bounds, p_value, points, signed
from nnunet_ssl.report.results import Results, short_name


def method_rows(results: Results) -> dict[str, Any]:
    """Header and rows: each method with each number of labels, mean of labels in every metric."""
    unit = next(iter(results.scores.values())).unit if results.scores else "mm"
    heads = ["Dice (%)", "Jaccard (%)", f"95HD ({unit})", f"ASD ({unit})"]
    header = ["labels", "method", "seeds", *heads, "missed"]
    rows = []
    for labeled, method in _complete(results):
        seeds = results.seeds((method, labeled))
        scores = results.mean(method, labeled, seeds)
        values = [_with_interval(scores, metric) for metric in METRICS]
        # counted before averaging: the mean over seeds of an empty prediction need not be empty
        missed = sum(_missed(results.scores[method, labeled, s]) for s in seeds)
        possible = sum(int((results.scores[method, labeled, s].n_ref > 0).sum()) for s in seeds)
        name = results.name_of_labels(labeled)
        rows.append([name, short_name(method), len(seeds), *values, f"{missed} of {possible}"])
    return {"header": header, "rows": rows}


def label_rows(results: Results) -> dict[str, Any] | None:
    """Header and rows: the Dice of each label against the baseline; ``None`` if there is one label."""
    if not results.scores or len(next(iter(results.scores.values())).labels) < 2:
        return None
    header = ["labels", "method", "label", "Dice (%)", "difference", "p (not corrected)"]
    rows = []
    for labeled, method in _complete(results):
        seeds = results.seeds((method, labeled), (BASELINE, labeled))
        if not seeds:
            continue
        name = results.name_of_labels(labeled)
        baseline, own = (results.mean(m, labeled, seeds) for m in (BASELINE, method))
        for row in compare(baseline, own, metrics=["Dice"]):
            if row.label != OVERALL:
                against = ["", ""]
                if method != BASELINE:
                    against = [f"{signed(row.difference)} {bounds(row.low, row.high)}", p_value(row.p)]
                rows.append([name, short_name(method), row.label, points(row.mean_b), *against])
    return {"header": header, "rows": rows}


def _complete(results: Results) -> Sequence[tuple[str, str]]:
    return [
        (labeled, method)
        for labeled in [*(n for n in results.labels if n != ALL), ALL]
        for method in results.methods
        if results.seeds((method, labeled))
    ]


def _with_interval(scores: Scores, metric: str) -> str:
    values = scores.values[metric]
    mean = bootstrap.overall_mean(values)
    low, high = bootstrap.intervals(values, scores.strata)[1]
    if metric not in SMALLER_IS_BETTER:
        return f"{points(mean)} {bounds(low, high)}"
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def _missed(scores: Scores) -> int:
    """Structures that are there and of which nothing was predicted: they have no distance."""
    return int(((scores.n_pred == 0) & (np.nan_to_num(scores.n_ref) > 0)).sum())
