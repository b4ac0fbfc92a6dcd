"""Bootstrap intervals: against SciPy, closed forms, and where scores are not defined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nnunet_ssl.evaluation.bootstrap import (
    Design,
    group_means,
    interval,
    intervals,
    label_means,
    overall_mean,
    resampled_means,
)

NAN = float("nan")


def test_means_leave_out_what_is_not_defined() -> None:
    values = np.array([[1.0, NAN], [0.0, 0.5], [NAN, NAN]])
    assert label_means(values) == pytest.approx([0.5, 0.5])
    assert overall_mean(np.array([[1.0, NAN, NAN], [0.5, 0.25, NAN]])) == pytest.approx((0.75 + 0.25) / 2)
    assert np.isnan(overall_mean(np.full((3, 2), NAN)))


def test_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).beta(8, 2, 25)
    (ours,), overall = intervals(values[:, None])
    scipys = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx(tuple(scipys), abs=0.003)
    assert overall == ours  # of one label


def test_standard_error_of_the_resamples_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=(40, 1))
    samples = resampled_means(values)
    assert samples.mean() == pytest.approx(values.mean(), abs=0.01)
    assert samples.std() == pytest.approx(values.std() / np.sqrt(40), rel=0.03)


def test_same_scores_same_interval_and_chunks_hold_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(12, 3))
    assert intervals(values) == intervals(values.copy())
    monkeypatch.setattr("nnunet_ssl.evaluation.bootstrap._CHUNK", 100)
    samples = resampled_means(values, resamples=1003)
    assert samples.shape == (1003, 3)
    assert samples.mean(0) == pytest.approx(values.mean(0), abs=0.05)


def test_labels_of_a_case_are_drawn_together() -> None:
    # the second label is the mirror image of the first, so the mean of both never varies
    first = np.random.default_rng(0).normal(size=30)
    of_labels, overall = intervals(np.stack((first, -first), 1))
    assert of_labels[0][1] - of_labels[0][0] > 0.3
    assert overall == pytest.approx((0.0, 0.0), abs=1e-12)


def test_cases_are_drawn_within_their_task() -> None:
    # all cases of a task score alike: within a task nothing varies
    values = np.array([[0.2, NAN], [0.2, NAN], [NAN, 0.9], [NAN, 0.9], [NAN, 0.9]])
    _, stratified = intervals(values, Design.of(["s", "s", "t", "t", "t"], ["a", "b", "c", "d", "e"]))
    assert stratified == pytest.approx((0.55, 0.55))


def test_groups_are_drawn_whole() -> None:
    # two patients, all frames of each alike: a draw holds one, the other or both
    values = np.array([0.2] * 3 + [0.8] * 3)[:, None]
    design = Design.of(["t"] * 6, ["a"] * 3 + ["b"] * 3)
    samples = resampled_means(values, design)
    assert set(np.round(samples[:, 0], 6)) == {0.2, 0.5, 0.8}
    assert np.mean(np.isclose(samples, 0.2)) == pytest.approx(0.25, abs=0.02)
    assert intervals(values, design)[1] == pytest.approx((0.2, 0.8))
    assert np.isnan(intervals(values[:3], Design.of(["t"] * 3, ["a"] * 3))[1]).all()  # one cannot vary


def test_groups_of_one_change_nothing() -> None:
    values = np.random.default_rng(3).beta(8, 2, (20, 2))
    tasks = ["s"] * 12 + ["t"] * 8
    each = Design.of(tasks, [f"c{i:02d}" for i in range(20)])
    assert (resampled_means(values[:, :1]) == resampled_means(values[:, :1], Design.independent(20))).all()
    assert (each.strata == np.array([0] * 12 + [1] * 8)).all()
    assert len(np.unique(each.groups)) == 20


def test_a_group_of_two_tasks_is_two() -> None:
    design = Design.of(["s", "t"], ["a", "a"])
    assert len(np.unique(design.groups)) == 2


def test_group_means_by_hand() -> None:
    design = Design.of(["t"] * 5, ["b", "a", "b", "a", "c"])
    assert group_means(np.array([1.0, 0.5, 2.0, NAN, NAN]), design) == pytest.approx(
        [0.5, 1.5, NAN], nan_ok=True
    )


def test_a_rare_label_is_in_every_draw_of_the_mean() -> None:
    # without the two cases of the second label the mean of labels would be that of the first alone, 0.9
    values = np.full((20, 2), NAN)
    values[:, 0] = 0.9
    values[:2, 1] = 0.1
    assert intervals(values)[1] == pytest.approx((0.5, 0.5))


def test_too_few_cases_have_no_interval() -> None:
    of_labels, overall = intervals(np.array([[0.5, 0.5], [NAN, 0.7], [NAN, 0.9]]))
    assert np.isnan(of_labels[0]).all()
    assert of_labels[1][0] < 0.7 < of_labels[1][1]
    assert not np.isnan(overall).any()
    assert np.isnan(intervals(np.array([[0.5]]))[1]).all()
    assert np.isnan(interval(np.array([NAN, 1.0]))).all()


def test_coverage() -> None:
    # 95 % intervals of 30 normal cases hold the true mean 93 times of 100: they are a bit narrow
    generator = np.random.default_rng(3)
    inside = 0
    for _ in range(300):
        samples = resampled_means(generator.normal(size=(30, 1)), resamples=600, seed=1)
        low, high = interval(samples[:, 0])
        inside += low <= 0 <= high
    assert 0.89 < inside / 300 < 0.98
