"""A picture of intensities: labelled against unlabelled scans, for each channel and task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_ssl.doctor.checks.drift import Group, channel_name, curves, groups, is_per_case, measure
from nnunet_ssl.doctor.facts import QUANTILE_LEVELS, CaseFacts
from nnunet_ssl.doctor.study import Study

# Distinct to colour-blind readers too (Okabe and Ito); line styles tell them apart once more.
_STYLES = {
    "labelled": {"color": "#0072B2", "linestyle": "solid"},
    "unlabelled": {"color": "#D55E00", "linestyle": "dashed"},
    "test": {"color": "#555555", "linestyle": "dotted"},
}
_BINS, _SMOOTHING = 240, 3.0
_MOST_ROWS = 8
_BAND = (10, 90)  # percentiles of cases


def draw_intensities(study: Study, file: Path) -> bool:
    """Write the picture: one row per channel and task, distributions as stored and as the network gets them.

    Of several folds the first is drawn. A line is the mean over cases, a band the middle 80 % of labelled and
    unlabelled ones.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    rows = (
        [group for group in groups(study, study.folds[0]) if group.labeled][:_MOST_ROWS]
        if study.folds
        else []
    )
    if not rows:
        return False
    figure = Figure(figsize=(11, 0.9 + 2.9 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (left, right), group in zip(axes, rows, strict=True):
        name = channel_name(study, group.channel)
        title = f"{group.task}: {name}" if group.task else name
        _panel(left, _members(group, study, raw=True))
        left.set_title(f"{title}\nas stored", loc="left", fontsize=10)
        left.set_xlabel("intensity")
        left.set_ylabel("share of voxels")
        _panel(right, _members(group, study, raw=False))
        per_case = is_per_case(study, group.channel)
        right.set_title(f"{_drift_text(group, study)}\nas the network gets it", loc="left", fontsize=10)
        right.set_xlabel("standard deviations from the mean of the case" if per_case else "intensity")
    fold = f", fold {study.folds[0].name}" if study.folds[0].name else ""
    figure.suptitle(f"{study.name}{fold}: intensities of voxels other than 0", fontsize=12)
    _legend(figure, rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    return True


def densities(quantiles: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of voxels in each bin, (N, bins), from quantiles (N, levels) at ``QUANTILE_LEVELS``; smoothed."""
    levels = np.concatenate([[0.0], QUANTILE_LEVELS, [1.0]])
    rows = []
    for curve in quantiles:
        # The outermost half percents are spread over as much again as the outermost percent
        ends = (2 * curve[0] - curve[1], 2 * curve[-1] - curve[-2])
        values = np.concatenate([[ends[0]], curve, [ends[1]]])
        values = values + np.arange(len(values)) * 1e-9 * max(float(np.ptp(curve)), 1e-12)  # strictly rising
        rows.append(np.diff(np.interp(edges, values, levels, left=0, right=1)))
    return np.asarray(ndimage.gaussian_filter1d(np.array(rows), _SMOOTHING, axis=1, mode="nearest"))


def _members(group: Group, study: Study, raw: bool) -> dict[str, NDArray[np.float64]]:
    parts: dict[str, Sequence[CaseFacts]] = {
        "labelled": group.labeled,
        "unlabelled": group.unlabeled,
        "test": group.test,
    }
    return {part: curves(cases, group.channel, study, raw) for part, cases in parts.items() if cases}


def _panel(panel: Any, parts: dict[str, NDArray[np.float64]]) -> None:
    ends = np.concatenate([curve[:, [0, -1]] for curve in parts.values()])
    # The typical ranges, not the widest: one strange scan must not squeeze all others
    low, high = np.percentile(ends[:, 0], 5), np.percentile(ends[:, 1], 95)
    margin = 0.03 * (high - low) or 1.0
    edges = np.linspace(low - margin, high + margin, _BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    top = 0.0
    for part, curve in parts.items():
        shares = densities(curve, edges) * _BINS / 100
        style = _STYLES[part]
        top = max(top, float(shares.mean(0).max()))
        if len(shares) > 2 and part != "test":  # a third band would hide the other two
            lower, upper = np.percentile(shares, _BAND, axis=0)
            panel.fill_between(centres, lower, upper, color=style["color"], alpha=0.16, linewidth=0)
        panel.plot(centres, shares.mean(0), linewidth=1.7, **style)
    panel.set_xlim(edges[0], edges[-1])
    panel.set_ylim(0, 1.35 * top)  # bands of few cases may reach higher
    panel.set_yticks([])
    panel.spines[["top", "right"]].set_visible(False)


def _drift_text(group: Group, study: Study) -> str:
    drift = measure(group, study)
    if drift is None:
        return "too few cases to compare" if group.unlabeled else "no unlabelled scans"
    judged = "drift" if drift.matters else "no drift"
    return f"{judged}: {drift.distance:.2f} standard deviations apart, p = {drift.p_value:.3f}"


def _legend(figure: Any, rows: Sequence[Group]) -> None:
    from matplotlib.lines import Line2D

    counts = {
        "labelled": max(len(g.labeled) for g in rows),
        "unlabelled": max(len(g.unlabeled) for g in rows),
        "test": max(len(g.test) for g in rows),
    }
    several = "up to " if len(rows) > 1 else ""
    handles = [
        Line2D([], [], linewidth=1.7, label=f"{part} ({several}{count})", **_STYLES[part])  # type: ignore[arg-type]
        for part, count in counts.items()
        if count
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
