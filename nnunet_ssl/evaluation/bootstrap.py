"""Confidence intervals of means over cases, by resampling the cases.

The percentile bootstrap (Efron 1979) with 10 000 resamples and a fixed seed, so that the same scores give the
same interval. A case is drawn with all its labels, and with all cases of its group (the frames of a patient,
say), for they are not independent of each other, and within its task. Written here rather than taken from
``scipy.stats.bootstrap``, which knows neither groups nor values that are not defined in every case; a test
compares the two where both can serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
Values = NDArray[np.float64]

_CHUNK = 1 << 22  # counts held at a time: bounds the memory however many cases there are


@dataclass(frozen=True)
class Design:
    """What is independent of each other in a set of cases.

    Attributes:
        strata: (cases,) number of the task of each case; groups are drawn within their task.
        groups: (cases,) number of the group of each case; no group belongs to two tasks.
    """

    strata: NDArray[np.intp]
    groups: NDArray[np.intp]

    @classmethod
    def of(cls, tasks: Sequence[str], groups: Sequence[str]) -> Design:
        """From names: of the task and of the group of each case."""
        units = [f"{task}\n{group}" for task, group in zip(tasks, groups, strict=True)]
        numbers = (np.unique(np.array(names), return_inverse=True)[1] for names in (tasks, units))
        return cls(*(n.astype(np.intp) for n in numbers))

    @classmethod
    def independent(cls, cases: int) -> Design:
        """Cases of one task, each a group of its own."""
        return cls(np.zeros(cases, np.intp), np.arange(cases))


def method(grouped: bool) -> str:
    """What the intervals are, for a sentence."""
    return f"percentile bootstrap over {'groups of cases' if grouped else 'cases'}, {RESAMPLES} resamples"


def label_means(values: Values) -> Values:
    """Mean of each label over the cases where it is defined: (cases, labels) to (labels,)."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(0), defined.sum(0))


def overall_mean(values: Values) -> float:
    """Mean over labels of ``label_means``, as nnU-Net's ``foreground_mean``; NaN if nothing is defined."""
    return float(_mean_of_labels(label_means(values)[None])[0])


def resampled_means(
    values: Values, design: Design | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Values:
    """Means of each label over groups of cases drawn with replacement.

    Args:
        values: (cases, labels), NaN where a label is not defined in a case.
        design: which cases belong together; by default they are independent.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        (resamples, labels); NaN where a draw holds no case that defines the label.
    """
    defined = ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    design = design or Design.independent(len(values))
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(1, len(values)))
    means = []
    for start in range(0, resamples, rows):
        # How often each case is drawn is all that a mean needs: one product instead of copies of the scores
        counts = _draw(design, min(rows, resamples - start), generator)
        means.append(_divide(counts @ filled, counts @ defined))
    return np.concatenate(means)


def interval(samples: Values) -> tuple[float, float]:
    """Bounds between which the middle ``LEVEL`` of the samples lies; NaN if fewer than two are defined."""
    samples = samples[~np.isnan(samples)]
    if len(samples) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_interval(values: Values, samples: Values, design: Design | None = None) -> tuple[float, float]:
    """Interval of the mean over labels: (cases, labels) and their ``resampled_means`` of the same design.

    NaN if fewer than two groups define any label, for one cannot vary. The mean is taken of the draws
    that hold every label that the values hold: without its rare label it would be another mean.
    """
    groups = (design or Design.independent(len(values))).groups
    defined = np.array([len(np.unique(groups[~np.isnan(column)])) for column in values.T])
    if not (defined > 1).any():
        return float("nan"), float("nan")
    return interval(samples[:, defined > 0].mean(1))


def intervals(
    values: Values, design: Design | None = None
) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Interval of the mean of each label, and of the mean over labels, as ``mean_interval``."""
    samples = resampled_means(values, design)
    labels = range(values.shape[1])
    each = [mean_interval(values[:, [k]], samples[:, [k]], design) for k in labels]
    return each, mean_interval(values, samples, design)


def group_means(values: NDArray[np.float64], design: Design) -> NDArray[np.float64]:
    """(cases,) to (groups,): means of the cases of a group that have a value; NaN where none has."""
    defined = ~np.isnan(values)
    count = np.bincount(design.groups, defined)
    return _divide(np.bincount(design.groups, np.where(defined, values, 0)), count)


def _draw(design: Design, rows: int, generator: np.random.Generator) -> Values:
    """(rows, cases): how often each case is drawn, as many draws in a stratum as it has groups."""
    counts = np.zeros((rows, len(design.groups)))
    for stratum in np.unique(design.strata):
        mine = np.flatnonzero(design.strata == stratum)
        groups, member = np.unique(design.groups[mine], return_inverse=True)
        drawn = generator.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=rows)
        counts[:, mine] = drawn[:, member]
    return counts


def _mean_of_labels(means: Values) -> Values:
    """Mean over the last axis without what is not defined."""
    defined = ~np.isnan(means)
    return _divide(np.where(defined, means, 0).sum(-1), defined.sum(-1))


def _divide(sums: NDArray, counts: NDArray) -> Values:
    """Quotient, NaN where nothing was counted."""
    result = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=result, where=counts > 0)
    return result
