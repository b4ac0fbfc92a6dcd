"""The tables of a report: every metric of every method, and the Dice of every label."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.benchmark.plan import ALL, BASELINE
from nnunet_ssl.evaluation import bootstrap
from nnunet_ssl.evaluation.compare import OVERALL, Comparison, compare
from nnunet_ssl.evaluation.metrics import METRICS
from nnunet_ssl.evaluation.scores import SMALLER_IS_BETTER, Scores
from nnunet_ssl.report.answers import Answer, bounds, p_value, percent, points, sentence, signed
from nnunet_ssl.report.results import Results, short_name

Condition = Callable[[Scores], NDArray[np.bool_]]


def answer_tables(found: Sequence[Answer], results: Results) -> list[dict[str, Any]]:
    """For each number of labels: what the best method gives in a sentence, then all of them, best first."""
    heads = ["method", "Dice (%)", "supervised", "difference", "p (Holm)", "pairs", "each seed", "of the gap"]
    tables = []
    for labeled in dict.fromkeys(answer.labeled for answer in found):
        mine = [answer for answer in found if answer.labeled == labeled]
        table = {"header": [*heads, "verdict"], "rows": [_answer_cells(answer) for answer in mine]}
        tables.append({"text": sentence(mine[0], results), "badge": True, **table})
    return tables


def _answer_cells(answer: Answer) -> list[str]:
    dice = answer.dice
    each = ", ".join(f"{s}: {signed(d)}" for s, d in zip(answer.seeds, answer.by_seed, strict=True))
    return [
        short_name(answer.method),
        points(dice.mean_b),
        points(dice.mean_a),
        f"{signed(dice.difference)} {bounds(dice.low, dice.high)}",
        p_value(answer.p),
        _pairs(dice),
        each,
        percent(answer.share_of_gap),
        answer.verdict,
    ]


def _pairs(row: Comparison) -> str:
    """Their number, that of their groups, and in how many cases a label makes none."""
    return f"{row.size}, both empty: {row.both_empty}" if row.both_empty else row.size


def method_rows(results: Results) -> dict[str, Any]:
    """Header and rows: each method with each number of labels, mean of labels in every metric."""
    unit = next(iter(results.scores.values())).unit if results.scores else "mm"
    heads = ["Dice (%)", "Jaccard (%)", f"95HD ({unit})", f"ASD ({unit})"]
    header = ["labels", "method", "seeds", *heads, "missed", "false alarms"]
    rows = []
    for labeled, method in _complete(results):
        seeds = results.seeds((method, labeled))
        scores = results.mean(method, labeled, seeds)
        values = [_with_interval(scores, metric) for metric in METRICS]
        # counted before averaging: the mean over seeds of an empty prediction need not be empty
        single = [results.scores[method, labeled, seed] for seed in seeds]
        there = _share(single, lambda s: s.n_ref > 0, lambda s: s.n_pred == 0)
        absent = _share(single, lambda s: s.n_ref == 0, lambda s: s.n_pred > 0)
        name = results.name_of_labels(labeled)
        rows.append([name, short_name(method), len(seeds), *values, there, absent])
    return {"header": header, "rows": rows}


def label_rows(results: Results) -> dict[str, Any] | None:
    """Header and rows: the Dice of each label against the baseline; ``None`` if there is one label."""
    if not results.scores or len(next(iter(results.scores.values())).labels) < 2:
        return None
    heads = ["Dice (%)", "supervised", "difference", "p (not corrected)", "pairs"]
    header = ["labels", "method", "label", *heads]
    rows = []
    for labeled, method in _complete(results):
        seeds = results.seeds((method, labeled), (BASELINE, labeled))
        if not seeds:
            continue
        name = results.name_of_labels(labeled)
        baseline, own = (results.mean(m, labeled, seeds) for m in (BASELINE, method))
        for row in compare(baseline, own, metrics=["Dice"]):
            if row.label != OVERALL:
                against = _against(row) if method != BASELINE else [""] * 4
                rows.append([name, short_name(method), row.label, points(row.mean_b), *against])
    return {"header": header, "rows": rows}


def _against(row: Comparison) -> list[str]:
    difference = f"{signed(row.difference)} {bounds(row.low, row.high)}"
    return [points(row.mean_a), difference, p_value(row.p), _pairs(row)]


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
    low, high = bootstrap.intervals(values, scores.design)[1]
    if metric not in SMALLER_IS_BETTER:
        return f"{points(mean)} {bounds(low, high)}"
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def _share(runs: Sequence[Scores], among: Condition, which: Condition) -> str:
    """``3 of 40`` structures of a kind; NaN, where a label is not annotated, is of no kind."""
    count = sum(int((among(scores) & which(scores)).sum()) for scores in runs)
    total = sum(int(among(scores).sum()) for scores in runs)
    return f"{count} of {total}" if total else "-"
