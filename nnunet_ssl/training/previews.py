"""Strips of pictures in the fold's folder: what a method sees and makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen, as in nnU-Net)
import numpy as np  # noqa: E402

from nnunet_ssl.methods.base import Panel  # noqa: E402

STYLES: dict[str, dict[str, Any]] = {
    "image": {"cmap": "gray"},
    "labels": {"cmap": "nipy_spectral", "interpolation": "nearest", "vmin": 0},
    "unit": {"cmap": "viridis", "vmin": 0, "vmax": 1},
    "signed": {"cmap": "RdBu_r", "vmin": -1, "vmax": 1},
}


def save_previews(strips: Sequence[Sequence[Panel]], file: Path) -> None:
    """One row per strip; of 3D panels one slice is shown, the same for the whole strip.

    Args:
        strips: rows of panels; no file is written if there is none.
        file: picture to write; its folder is made.
    """
    if not strips:
        return
    columns = max(len(strip) for strip in strips)
    size = (2.2 * columns, 2.5 * len(strips))
    figure, axes = plt.subplots(len(strips), columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for row, strip in zip(axes, strips, strict=True):
        most = max([int(p.values.max()) for p in strip if p.kind == "labels"] + [1])
        index = shown_slice(strip)
        for axis, panel in zip(row, strip, strict=False):
            values = panel.values.detach().float().cpu().numpy()
            picture = values if values.ndim == 2 else values[index]
            style = STYLES[panel.kind] | ({"vmax": most} if panel.kind == "labels" else {})
            axis.imshow(picture, **style)
            axis.set_title(panel.title, fontsize=8)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def shown_slice(strip: Sequence[Panel]) -> int:
    """Slice along the first axis with most foreground over the strip's label maps, else the middle one."""
    areas = [
        (p.values != 0).flatten(1).sum(1).cpu().numpy()
        for p in strip
        if p.kind == "labels" and p.values.ndim == 3
    ]
    total = np.sum(areas, axis=0) if areas else np.zeros(1)
    return int(total.argmax()) if total.any() else strip[0].values.shape[0] // 2
