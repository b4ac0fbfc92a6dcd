"""Pictures of a few cases: the scan, and on it the reference and what each model predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Distinct to colour-blind readers too (Okabe and Ito); line styles tell them apart once more.
_REFERENCE: dict[str, Any] = {"colors": "#F0E442", "linestyles": "solid"}
_MODELS: tuple[dict[str, Any], ...] = (
    {"colors": "#56B4E9", "linestyles": "dashed"},
    {"colors": "#D55E00", "linestyles": "solid"},
)


@dataclass(frozen=True)
class Column:
    """One case of a picture.

    Attributes:
        title: what stands above it.
        image: scan (Z, Y, X).
        reference: mask of the same shape.
        predictions: mask of each model, by name, at most two.
        aspect: height of a voxel of the slice over its width.
    """

    title: str
    image: NDArray[Any]
    reference: NDArray[np.bool_]
    predictions: Mapping[str, NDArray[np.bool_]]
    aspect: float = 1.0


def worst_median_best(scores: Mapping[str, Sequence[float | None]]) -> dict[str, str]:
    """Pick three cases by the mean of their scores over all models, so that none is flattered.

    Args:
        scores: case to the score of each model; where one is undefined, the case is left out.

    Returns:
        ``worst``, ``median`` and ``best`` to a case; fewer where there are fewer cases.
    """
    means = {}
    for case, values in scores.items():
        defined = [value for value in values if value is not None]
        if len(defined) == len(values):
            means[case] = math.fsum(defined)
    ordered = sorted(means, key=lambda case: (means[case], case))
    if not ordered:
        return {}
    ranks: dict[str, str] = {}
    for rank, index in (("worst", 0), ("best", -1), ("median", len(ordered) // 2)):
        ranks.setdefault(ordered[index], rank)  # of fewer than three cases, each is shown once
    return {ranks[case]: case for case in ordered if case in ranks}


def draw_overlays(columns: Sequence[Column], file: Path, title: str) -> None:
    """Write a picture: each case in a column, the bare slice above, the contours on it below.

    The slice is the axial one in which the reference is largest.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(3.4 * len(columns), 5), 7.6), layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False)
    for (above, below), column in zip(axes.T, columns, strict=True):
        index = int(column.reference.sum((1, 2)).argmax())
        low, high = np.percentile(column.image, (1, 99))
        for panel in (above, below):
            panel.imshow(column.image[index], cmap="gray", vmin=low, vmax=high, aspect=column.aspect)
            panel.set_axis_off()
            panel.set_autoscale_on(False)  # outlines at the border reach half a pixel out
        above.set_title(column.title, fontsize=10)
        _contour(below, column.reference[index], _REFERENCE)
        for mask, style in zip(column.predictions.values(), _MODELS, strict=False):
            _contour(below, mask[index], style)
    figure.suptitle(title)
    figure.legend(
        handles=_legend(list(columns[0].predictions)), loc="outside lower center", ncols=3, frameon=False
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _contour(panel: Any, mask: NDArray[np.bool_], style: Mapping[str, str]) -> None:
    """Outline of a mask; nothing for an empty one."""
    if mask.any():
        padded = np.pad(mask.astype(float), 1)  # closes outlines at the border of the slice
        ticks = [np.arange(-1, n + 1) for n in mask.shape]
        panel.contour(ticks[1], ticks[0], padded, levels=[0.5], linewidths=1.6, **style)


def _legend(models: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    named = [("reference", _REFERENCE), *zip(models, _MODELS, strict=False)]
    return [Line2D([], [], color=s["colors"], linestyle=s["linestyles"], label=name) for name, s in named]
