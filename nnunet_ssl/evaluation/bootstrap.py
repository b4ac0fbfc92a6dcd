"""Confidence intervals of means over cases, by resampling the cases.

The percentile bootstrap (Efron 1979) with 10 000 resamples and a fixed seed, so that the same scores give the
same interval. A case is drawn with all its labels, for they are not independent of each other, and within its
task. Written here rather than taken from ``scipy.stats.bootstrap``, which knows neither strata nor values
that are not defined in every case; a test compares the two where both can serve.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
METHOD = f"percentile bootstrap over cases, {RESAMPLES} resamples"

Values = NDArray[np.float64]

_CHUNK = 1 << 22  # counts held at a time: bounds the memory however many cases there are


def label_means(values: Values) -> Values:
    """Mean of each label over the cases where it is defined: (cases, labels) to (labels,)."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(0), defined.sum(0))


def overall_mean(values: Values) -> float:
    """Mean over labels of ``label_means``, as nnU-Net's ``foreground_mean``; NaN if nothing is defined."""
    return float(_mean_of_labels(label_means(values)[None])[0])


def resampled_means(
    values: Values, strata: NDArray[np.intp] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Values:
    """Means of each label over cases drawn with replacement.

    Args:
        values: (cases, labels), NaN where a label is not defined in a case.
        strata: (cases,) number of the task of each case; cases are drawn within their task.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        (resamples, labels); NaN where a draw holds no case that defines the label.
    """
    defined = ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    strata = np.zeros(len(values), np.intp) if strata is None else strata
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(1, len(values)))
    means = []
    for start in range(0, resamples, rows):
        # How often each case is drawn is all that a mean needs: one product instead of copies of the scores
        counts = _draw(strata, min(rows, resamples - start), generator)
        means.append(_divide(counts @ filled, counts @ defined))
    return np.concatenate(means)


def interval(samples: Values, level: float = LEVEL) -> tuple[float, float]:
    """Bounds between which the middle ``level`` of the samples lies; NaN if fewer than two are defined."""
    samples = samples[~np.isnan(samples)]
    if len(samples) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(values: Values, samples: Values) -> tuple[float, float]:
    """Interval of the mean over labels: (cases, labels) and their ``resampled_means``.

    NaN if fewer than two cases define any label, for one case cannot vary. The mean is taken of the draws
    that hold every label that the values hold: without its rare label it would be another mean.
    """
    defined = (~np.isnan(values)).sum(0)
    if not (defined > 1).any():
        return float("nan"), float("nan")
    return interval(samples[:, defined > 0].mean(1))


def intervals(
    values: Values, strata: NDArray[np.intp] | None = None
) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Interval of the mean of each label, and of the mean over labels, as ``mean_interval``."""
    samples = resampled_means(values, strata)
    labels = range(values.shape[1])
    return [mean_interval(values[:, [k]], samples[:, [k]]) for k in labels], mean_interval(values, samples)


def _draw(strata: NDArray[np.intp], rows: int, generator: np.random.Generator) -> Values:
    """(rows, cases): how often each case is drawn, as many draws in a stratum as it has cases."""
    counts = np.zeros((rows, len(strata)))
    for stratum in np.unique(strata):
        mine = np.flatnonzero(strata == stratum)
        counts[:, mine] = generator.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=rows)
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
