"""The plots of a report, as SVG: label efficiency, and what happened in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_ssl.benchmark.plan import ALL, BASELINE
from nnunet_ssl.curve_names import AGREEMENT, COVERAGE, HIDDEN_DICE, PREFIX, REFERENCE, TERM, WEIGHT
from nnunet_ssl.evaluation import bootstrap
from nnunet_ssl.report.drawing import COLOURS, GREY, figure, method_styles, svg
from nnunet_ssl.report.results import Results, short_name

_VALIDATION = "ema_fg_dice"  # nnU-Net's own curve
_MONITORED = {
    COVERAGE: "share of foreground",
    AGREEMENT: "agreement of two views",
    HIDDEN_DICE: "Dice with hidden labels",
}

_COLUMNS = 3
_FEW_EPOCHS = 10

Curves = Mapping[str, Sequence[Sequence[float]]]  # labels to one curve for each seed


def efficiency_plot(results: Results) -> str:
    """Mean Dice over the number of labelled cases, with intervals; each seed as a faint point."""
    page = figure(7.5, 4.4)
    axes = page.add_subplot()
    columns = results.labels
    positions = {labeled: i for i, labeled in enumerate(columns)}
    styles = dict(zip(results.methods, method_styles(results.methods), strict=True))
    shown = [method for method in results.methods if any(mean_dice(results, method, n) for n in columns)]
    for offset, method in enumerate(shown):
        # Side by side, lest intervals hide each other
        shift = (offset - (len(shown) - 1) / 2) * 0.06
        points = [(positions[n] + shift, n, m) for n in columns for m in [mean_dice(results, method, n)] if m]
        xs, means = [x for x, _, _ in points], [m[0] for _, _, m in points]
        errors = [[m[0] - m[1] for _, _, m in points], [m[2] - m[0] for _, _, m in points]]
        axes.errorbar(
            xs,
            means,
            np.nan_to_num(errors),
            label=short_name(method),
            capsize=3,
            lw=1.6,
            ms=6,
            **styles[method],
        )
        for x, labeled, _ in points:
            seeds = results.seeds((method, labeled))
            dice = [_overall(results, method, labeled, [s]) for s in seeds] if len(seeds) > 1 else []
            axes.plot([x] * len(dice), dice, ".", color=styles[method]["color"], alpha=0.35, ms=5)
    upper = mean_dice(results, BASELINE, ALL)
    if upper:
        axes.axhline(
            upper[0], color=GREY, ls="--", lw=1.2, label=f"supervised, {results.name_of_labels(ALL)}"
        )
        if not math.isnan(upper[1]):
            axes.axhspan(upper[1], upper[2], color=GREY, alpha=0.08, lw=0)
    ticks = [f"{results.labelled_cases(n):.0f}" + (" (all)" if n == ALL else "") for n in columns]
    axes.set_xticks(range(len(columns)), ticks)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_xlabel("labelled cases")
    axes.set_ylabel("mean Dice of the test cases (%)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=9, loc="best")
    return svg(page)


def training_plot(results: Results, method: str) -> str | None:
    """Loss terms with their weights, pseudo-label curves and the online validation of one method."""
    curves = curves_of(results, method)
    terms = [key for key in curves if key.startswith(TERM)]
    monitors = [key for key in curves if key.startswith(PREFIX)]
    panels = [*terms, *monitors, *([_VALIDATION] if _VALIDATION in curves else [])]
    if not panels:
        return None
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    page = figure(3.6 * columns, 2.5 * rows)
    shown = {labeled: i for i, labeled in enumerate(results.labels)}
    for number, key in enumerate(panels, 1):
        axes = page.add_subplot(rows, columns, number)
        for labeled, seeds in curves[key].items():
            colour = COLOURS[shown[labeled] % len(COLOURS)]
            _draw(axes, seeds, color=colour, label=results.name_of_labels(labeled))
        weight = curves.get(WEIGHT + key.removeprefix(TERM)) if key in terms else None
        if weight:
            _draw_weight(axes, next(iter(weight.values())))
        for usual in curves.get(REFERENCE + key.removeprefix(PREFIX), {}).values():
            axes.plot(usual[0], color="gray", ls="--", lw=1)
        axes.set_title(title_of(key), fontsize=9)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if number > len(panels) - columns:
            axes.set_xlabel("epoch", fontsize=8)
    handles, names = page.axes[0].get_legend_handles_labels()
    page.legend(handles, names, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return svg(page)


def _draw(axes: Any, seeds: Sequence[Sequence[float]], **style: Any) -> None:
    """Mean over seeds as a line, each seed faintly; few epochs as points, too."""
    length = min(len(curve) for curve in seeds)
    stack = np.array([[np.nan if v is None else v for v in curve[:length]] for curve in seeds], float)
    marker = "o" if length < _FEW_EPOCHS else None
    if len(stack) > 1:
        axes.plot(stack.T, color=style["color"], alpha=0.25, lw=0.8)
    axes.plot(stack.mean(0), lw=1.6, marker=marker, ms=3.5, **style)


def _draw_weight(axes: Any, seeds: Sequence[Sequence[float]]) -> None:
    twin = axes.twinx()
    twin.plot(seeds[0], color="gray", ls=":", lw=1.2)
    twin.set_ylim(bottom=0)
    twin.tick_params(labelsize=7, colors="gray")


def title_of(key: str) -> str:
    """What a curve shows."""
    if key == _VALIDATION:
        return "online validation Dice (moving average)"
    name = key.removeprefix(TERM).removeprefix(PREFIX)
    return f"pseudo-labels: {_MONITORED.get(name, name)}" if key.startswith(PREFIX) else name


def curves_of(results: Results, method: str) -> dict[str, dict[str, list[list[float]]]]:
    """Curve of each key, by number of labels, one for each run; only curves of one number per epoch."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for run in results.done:
        if run.method == method:
            for key, values in results.curves(run).items():
                if values and not any(isinstance(value, list) for value in values):
                    found.setdefault(key, {}).setdefault(run.labeled, []).append(list(values))
    return found


def mean_dice(results: Results, method: str, labeled: str) -> tuple[float, float, float] | None:
    """Mean Dice in percent and its interval, over all seeds that are there."""
    seeds = results.seeds((method, labeled))
    if not seeds:
        return None
    scores = results.mean(method, labeled, seeds)
    low, high = bootstrap.intervals(scores.values["Dice"], scores.design)[1]
    return 100 * bootstrap.overall_mean(scores.values["Dice"]), 100 * low, 100 * high


def _overall(results: Results, method: str, labeled: str, seeds: Sequence[int]) -> float:
    return 100 * bootstrap.overall_mean(results.mean(method, labeled, seeds).values["Dice"])
