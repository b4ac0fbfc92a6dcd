"""The answers as a picture, and what the methods' pseudo-labels did, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_ssl.benchmark.plan import ALL
from nnunet_ssl.curve_names import BY_LABEL, COVERAGE, PREFIX, REFERENCE
from nnunet_ssl.report.answers import Answer
from nnunet_ssl.report.drawing import GREY, figure, method_styles, svg
from nnunet_ssl.report.plots import curves_of, title_of
from nnunet_ssl.report.results import Results, short_name

_VERDICT_COLOURS = {"gain": "#00795a", "loss": "#c4480a"}
_OTHER = "#5c6670"
_ROW = 0.34  # inches


def difference_plot(answers: Sequence[Answer], results: Results) -> str | None:
    """Paired difference of each method to the baseline, with its interval; each seed as a faint point."""
    if not answers:
        return None
    groups = list(dict.fromkeys(answer.labeled for answer in answers))
    rows = len(answers) + len(groups)
    page = figure(7.5, _ROW * rows + 0.9)
    axes, names = page.add_subplot(), {}
    y = 0
    for labeled in groups:
        mine = [answer for answer in answers if answer.labeled == labeled]
        names[y] = f"with {results.name_of_labels(labeled)}"
        for answer in mine:
            y += 1
            _draw_answer(axes, answer, y)
            names[y] = short_name(answer.method)
        _draw_gap(axes, mine, y)
        y += 1
    axes.axvline(0, color=GREY, lw=1.2)
    axes.set_yticks(list(names), list(names.values()))
    for label in axes.get_yticklabels():
        if label.get_text().startswith("with "):
            label.set_fontweight("bold")
    axes.set_ylim(y - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.set_xlabel("Dice points more than supervised with the same labels")
    return svg(page)


def watching_plot(results: Results) -> str | None:
    """Curves of the pseudo-label monitor, one line a method, with the fewest labels."""
    labeled = next((n for n in results.labels if n != ALL), ALL)
    found = {m: curves_of(results, m) for m in results.methods}
    keys = [k for k in dict.fromkeys(k for c in found.values() for k in c) if k.startswith(PREFIX)]
    keys = [
        k for k in keys if k != PREFIX + BY_LABEL and any(labeled in c.get(k, {}) for c in found.values())
    ]
    if not keys:
        return None
    columns = min(2, len(keys))
    page = figure(4.6 * columns, 2.7 * -(-len(keys) // columns) + 0.4)
    styles = dict(zip(results.methods, method_styles(results.methods), strict=True))
    lines: dict[str, Any] = {}
    for number, key in enumerate(keys, 1):
        axes = page.add_subplot(-(-len(keys) // columns), columns, number)
        for method, curves in found.items():
            seeds = curves.get(key, {}).get(labeled)
            if seeds:
                (line,) = axes.plot(_mean(seeds), color=styles[method]["color"], lw=1.6)
                lines[short_name(method)] = line
        if key == PREFIX + COVERAGE:
            usual = [
                c[REFERENCE + COVERAGE].get(labeled) for c in found.values() if REFERENCE + COVERAGE in c
            ]
            for seeds in filter(None, usual[:1]):
                (lines["labelled cases"],) = axes.plot(_mean(seeds), color="gray", ls="--", lw=1)
        axes.set_title(title_of(key), fontsize=9)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    page.legend(lines.values(), lines, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return svg(page)


def _draw_answer(axes: Any, answer: Answer, y: int) -> None:
    dice, colour = answer.dice, _VERDICT_COLOURS.get(answer.verdict, _OTHER)
    spread = np.nan_to_num([[dice.difference - dice.low], [dice.high - dice.difference]])
    style = {"color": colour, "ms": 6, "lw": 2, "capsize": 3}
    axes.errorbar([100 * dice.difference], [y], xerr=100 * spread, fmt="o", **style)
    if len(answer.by_seed) > 1:
        axes.plot(
            100 * np.array(answer.by_seed), [y + 0.22] * len(answer.by_seed), ".", color=colour, alpha=0.5
        )


def _draw_gap(axes: Any, mine: Sequence[Answer], last: int) -> None:
    """What all labels would give, beside the rows of one number of labels."""
    gap = 100 * np.mean([answer.gap for answer in mine])
    if np.isnan(gap):
        return
    top = last - len(mine) + 0.55
    axes.plot([gap, gap], [top, last + 0.4], color=GREY, ls="--", lw=1.2)
    axes.annotate("all labels", (gap, top), (0, 2), textcoords="offset points", ha="center", fontsize=8)


def _mean(seeds: Sequence[Sequence[float]]) -> Any:
    """Mean over seeds of curves as long as the shortest."""
    length = min(len(curve) for curve in seeds)
    return np.array([[np.nan if v is None else v for v in c[:length]] for c in seeds], float).mean(0)
