"""Compare two models on the same cases: paired differences with intervals, and Wilcoxon's test.

A pair is one case scored under both models. Where the reference is empty, an empty prediction is right and a
false alarm wrong: Dice and Jaccard, undefined for the former and 0 for the latter, count as 1 and 0 where the
models differ. Where both are right, neither can be better, and they make no pair. A distance needs two masks
that are not empty: where one of the models has none, the pair is left out. Both are counted: read a
difference together with its counts.

The mean and Wilcoxon's test ask different questions: a few large gains can raise the mean while most cases
lose a little. A difference is called shown only where mean, interval and ranks point the same way.

Cases of one group, such as the frames of a patient, are not independent of each other: the interval is drawn
over groups, and the test is that of the groups' means. Means and differences are those of the cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.errors import DataError
from nnunet_ssl.evaluation.bootstrap import (
    Design,
    Values,
    group_means,
    label_means,
    mean_interval,
    overall_mean,
    resampled_means,
)
from nnunet_ssl.evaluation.scores import Scores

OVERALL = "mean of labels"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """Model B against model A, in one metric on one label, or on the mean of all labels.

    Attributes:
        metric: name of the metric.
        label: name of the label, ``mean of TASK`` or ``OVERALL``.
        n: pairs.
        groups: groups that they belong to; as many as pairs unless cases are grouped.
        left_out: cases in which the metric of some label is defined under one of the models only.
        both_empty: cases in which both models are right that some label is not there.
        mean_a: mean of A over the pairs.
        mean_b: mean of B over the pairs.
        low: lower bound of the interval of the mean difference; NaN for fewer than two pairs.
        high: upper bound.
        p: of Wilcoxon's signed-rank test, two-sided; 1 if no pair differs.
        ranks: matched-pairs rank-biserial correlation (Kerby 2014), the direction in which that test points:
            1 if every pair is larger under B, -1 if every pair is smaller; NaN if there is no pair.
    """

    metric: str
    label: str
    n: int
    groups: int
    left_out: int
    both_empty: int
    mean_a: float
    mean_b: float
    low: float
    high: float
    p: float
    ranks: float

    @property
    def size(self) -> str:
        """Pairs, and groups if there are fewer: ``306`` or ``306 in 225 groups``."""
        return f"{self.n}" if self.groups == self.n else f"{self.n} in {self.groups} groups"

    @property
    def difference(self) -> float:
        """B minus A."""
        return self.mean_b - self.mean_a

    def shown(self, p: float | None = None) -> int:
        """Which way a difference is shown: 1 if B's values are larger, -1 if they are smaller, 0 if neither.

        Args:
            p: instead of the row's own, such as one that was corrected for the number of tests.
        """
        if not (self.p if p is None else p) < SIGNIFICANT:
            return 0
        if self.low > 0 and self.ranks > 0:
            return 1
        return -1 if self.high < 0 and self.ranks < 0 else 0

    def can_show(self, tests: int = 1) -> bool:
        """Whether there are groups enough for any difference to be shown, as one of ``tests`` (Holm)."""
        return not math.isnan(self.p) and tests * smallest_p(self.groups) < SIGNIFICANT


def compare(a: Scores, b: Scores, metrics: Sequence[str] | None = None) -> list[Comparison]:
    """Compare two models in every metric, or in some: each label, each task of several, and all.

    Cases that only one of them was scored on are left out, and so are the labels of a task without others.

    Raises:
        DataError: they share no case, or the cases that they share were scored on different labels, in
            different units, or against different references.
    """
    a, b = _on_shared_cases(a, b)
    chosen = [m for m in a.values if m in b.values] if metrics is None else metrics
    return [c for metric in chosen for c in _compare_metric(a, b, metric)]


def compare_on_pairs(a: Scores, b: Scores, third: Scores, metric: str) -> Comparison:
    """Compare a third model with A, the mean of labels, on the pairs of A and B alone.

    Means of other cases cannot stand beside theirs. A rightly empty prediction counts 1 there, as theirs do.
    The third must know every case that they share.

    Raises:
        DataError: as ``compare``.
    """
    a, b = _on_shared_cases(a, b)
    _, third = _on_shared_cases(a, third)
    first, second, both_empty = _paired(a, b, metric)
    unpaired = np.isnan(second - first)
    first, last = (np.where(unpaired, np.nan, values) for values in (first, third.for_pairs(metric)))
    samples = resampled_means(last - first, a.design)
    return _compare_mean(metric, OVERALL, first, last, both_empty, samples, a.design)


def wilcoxon(differences: NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (SciPy's; pairs without a difference are dropped).

    Returns:
        1 if no pair differs, NaN if there is no pair.
    """
    from scipy import stats

    differing = _differing(differences)
    if differing is None:
        return math.nan
    return float(stats.wilcoxon(differing).pvalue) if len(differing) else 1.0


def rank_correlation(differences: NDArray[np.float64]) -> float:
    """Matched-pairs rank-biserial correlation: (R+ - R-) / (R+ + R-), with Wilcoxon's sums of ranks.

    Returns:
        0 if no pair differs, NaN if there is no pair.
    """
    from scipy import stats

    differing = _differing(differences)
    if differing is None:
        return math.nan
    ranks = stats.rankdata(np.abs(differing))
    return float((ranks * np.sign(differing)).sum() / max(1.0, ranks.sum()))


def smallest_p(n: int) -> float:
    """The least p that Wilcoxon's test can give with ``n`` pairs: all differences have one sign."""
    return 2.0 ** (1 - n) if n else 1.0


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction for several tests (Holm 1979); NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def _differing(differences: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Those that are not 0; ``None`` if there is no pair."""
    defined = differences[~np.isnan(differences)]
    return defined[defined != 0] if len(defined) else None


def _on_shared_cases(a: Scores, b: Scores) -> tuple[Scores, Scores]:
    """Both on the cases that both know, in one order; raises as ``compare``."""
    shared = [case for case in a.cases if case in set(b.cases)]
    if not shared:
        raise DataError("The two share no case. Compare predictions of the same cases.")
    if a.unit != b.unit:
        raise DataError(
            f"One was scored in {a.unit}, the other in {b.unit}. Evaluate both with the same --unit."
        )
    # First the cases: a label is absent from a model that was scored on no case of its task
    a, b = a.select(shared), b.select(shared)
    if a.labels != b.labels:
        raise DataError(
            f"One was scored on the labels {', '.join(a.labels)}, the other on {', '.join(b.labels)}. "
            "Evaluate both with the same dataset.json."
        )
    if a.groups != b.groups:
        raise DataError(
            "The two were evaluated with other groups of cases. Evaluate both with the same --group-regex."
        )
    _check_references(a, b)
    return a, b


def _check_references(a: Scores, b: Scores) -> None:
    differ = np.argwhere((a.n_ref != b.n_ref) & ~(np.isnan(a.n_ref) & np.isnan(b.n_ref)))
    if len(differ):
        case, label = differ[0]
        raise DataError(
            f"The two were scored against different references: case {a.cases[case]} has "
            f"{a.n_ref[case, label]:.0f} voxels of {a.labels[label]} in one and "
            f"{b.n_ref[case, label]:.0f} in the other. Evaluate both against the same labels."
        )


def _paired(a: Scores, b: Scores, metric: str) -> tuple[Values, Values, NDArray[np.bool_]]:
    """Values of A and of B and where both are rightly empty, (cases, labels); NaN where there is no pair."""
    both_empty = (a.both_empty == 1) & (b.both_empty == 1)
    first, second = (np.where(both_empty, np.nan, scores.for_pairs(metric)) for scores in (a, b))
    return first, second, both_empty


def _compare_metric(a: Scores, b: Scores, metric: str) -> list[Comparison]:
    first, second, both_empty = _paired(a, b, metric)
    design = a.design
    samples = resampled_means(second - first, design)
    columns = {label: [k] for k, label in enumerate(a.labels)}
    if len(tasks := list(dict.fromkeys(a.tasks))) > 1:
        of_task = {t: [k for k, own in enumerate(a.label_tasks) if own == t] for t in tasks}
        columns |= {f"mean of {task}": mine for task, mine in of_task.items() if len(mine) > 1}
    columns[OVERALL] = list(range(len(a.labels)))
    return [
        _compare_mean(
            metric, name, first[:, mine], second[:, mine], both_empty[:, mine], samples[:, mine], design
        )
        for name, mine in columns.items()
    ]


def _compare_mean(
    metric: str,
    name: str,
    first: Values,
    second: Values,
    both_empty: NDArray[np.bool_],
    samples: Values,
    design: Design,
) -> Comparison:
    """The mean over labels, paired by case: three times (cases, labels), (resamples, labels) of B - A."""
    difference = second - first  # NaN where there is no pair
    unpaired = np.isnan(difference)
    left_out = int((np.isnan(first) != np.isnan(second)).any(1).sum())
    per_case = label_means(difference.T)
    mean_a, mean_b = (overall_mean(np.where(unpaired, np.nan, x)) for x in (first, second))
    per_group = group_means(per_case, design)
    n, groups = (int((~np.isnan(values)).sum()) for values in (per_case, per_group))
    bounds = mean_interval(difference, samples, design)
    tests = wilcoxon(per_group), rank_correlation(per_group)
    counts = n, groups, left_out, int(both_empty.any(1).sum())
    return Comparison(metric, name, *counts, mean_a, mean_b, *bounds, *tests)
