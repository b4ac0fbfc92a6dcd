"""Loss terms as curves: ``progress_ssl.png`` beside nnU-Net's ``progress.png``."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen, as in nnU-Net)

from nnunet_ssl.curve_names import BY_LABEL, OURS, PREFIX, REFERENCE, TERM, WEIGHT  # noqa: E402


def ended(history: Mapping[str, Sequence[Any]], measured: Container[str]) -> dict[str, float]:
    """Our curves that are no longer measured go on without values: nnU-Net draws as far as the shortest."""
    return {key: math.nan for key in history if key.startswith(OURS) and key not in measured}


def plot_terms(history: Mapping[str, Sequence[float]], file: Path) -> None:
    """One panel per loss term: its value, and dotted its weight; then the pseudo-label monitor's curves."""
    keys = [key for key in history if key.startswith(TERM)]
    keys += [key for key in history if key.startswith(PREFIX) and key != PREFIX + BY_LABEL]
    if not keys:
        return
    figure, axes = plt.subplots(len(keys), 1, figsize=(9, 2.6 * len(keys)), sharex=True, squeeze=False)
    for axis, key in zip(axes[:, 0], keys, strict=True):
        name = key.removeprefix(TERM).removeprefix(PREFIX)
        axis.plot(history[key], color="tab:blue")
        axis.set_ylabel(name if key.startswith(TERM) else f"pseudo-labels:\n{name}")
        axis.grid(alpha=0.3)
        if key.startswith(TERM):
            weights = axis.twinx()
            weights.plot(history[WEIGHT + name], color="tab:gray", ls="dotted")
            weights.set_ylabel("weight", color="tab:gray")
            weights.set_ylim(bottom=0)
        elif REFERENCE + name in history:
            axis.plot(history[REFERENCE + name], color="tab:gray", ls="dashed")  # of the labelled cases
    axes[-1, 0].set_xlabel("epoch")
    figure.tight_layout()
    figure.savefig(file, dpi=80)
    plt.close(figure)
