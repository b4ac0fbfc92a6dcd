"""What all plots of a report share: colours, markers, figures as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from nnunet_ssl.benchmark.plan import BASELINE

# Distinct to colour-blind readers too (Okabe and Ito); markers tell methods apart once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "sD^vP*X"
GREY = "#444444"


def method_styles(methods: Sequence[str]) -> list[dict[str, str]]:
    """Colour and marker of each method; the baseline's are always the same."""
    others = [m for m in methods if m != BASELINE]
    styles = []
    for method in methods:
        if method == BASELINE:
            styles.append({"color": GREY, "marker": "o"})
        else:
            k = others.index(method)
            styles.append({"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]})
    return styles


def figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def svg(page: Any) -> str:
    """The figure as text, the same for the same content."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nnunet_ssl"}):
        page.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
