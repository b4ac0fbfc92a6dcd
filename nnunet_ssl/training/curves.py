"""Loss terms as curves: ``progress_ssl.png`` beside nnU-Net's ``progress.png``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen, as in nnU-Net)

TERM = "ssl/"  # loss terms in nnU-Net's logger
WEIGHT = "ssl_weight/"  # and their weights


def plot_terms(history: Mapping[str, Sequence[float]], file: Path) -> None:
    """One panel per loss term: its value, and dotted its weight."""
    terms = [key.removeprefix(TERM) for key in history if key.startswith(TERM)]
    if not terms:
        return
    figure, axes = plt.subplots(len(terms), 1, figsize=(9, 2.6 * len(terms)), sharex=True, squeeze=False)
    for axis, term in zip(axes[:, 0], terms, strict=True):
        axis.plot(history[TERM + term], color="tab:blue", label=term)
        axis.set_ylabel(term)
        axis.grid(alpha=0.3)
        weights = axis.twinx()
        weights.plot(history[WEIGHT + term], color="tab:gray", ls="dotted")
        weights.set_ylabel("weight", color="tab:gray")
        weights.set_ylim(bottom=0)
    axes[-1, 0].set_xlabel("epoch")
    figure.tight_layout()
    figure.savefig(file, dpi=80)
    plt.close(figure)
