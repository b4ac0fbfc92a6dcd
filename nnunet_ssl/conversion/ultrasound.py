"""What the recipes for ultrasound pictures share.

All of them write gray PNG, so that they can be merged into one dataset; a pixel then has no size, as in the
papers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.images import from_picture, read_picture
from nnunet_ssl.conversion.paper_splits import Split, drawn_shares
from nnunet_ssl.conversion.recipes import Download, Recipe

SHARES = {"1of16": 1 / 16, "1of8": 1 / 8, "1of4": 1 / 4}
SOURCE = "ProPL (AAAI 2026): 3:1 training to test, 1/16, 1/8 and 1/4 of the training images labelled"
NOTE = (
    "Proportions are ProPL's. Its images, 800 for each task, are its own choice; here all are used, and "
    "drawn by a hash, patients kept whole. val stands in for ProPL's test quarter: take the final checkpoint."
)


def ultrasound_recipe(
    title: str,
    dataset: str,
    labels: Sequence[str],
    layouts: Mapping[str, Sequence[str]],
    licence: str,
    reference: str,
    **more: Any,
) -> Recipe:
    """Recipe of gray pictures; ``labels`` are the names of 1, 2, ...; ``more`` as in ``Recipe``."""
    return Recipe(
        title=title,
        dataset=dataset,
        channels=("US",),
        labels={"background": 0, **{name: value for value, name in enumerate(labels, start=1)}},
        layouts=layouts,
        licence=licence,
        reference=reference,
        file_ending=".png",
        **more,
    )


def propl_splits(download: Download, cases: Sequence[Case]) -> list[Split]:
    """The ``splits`` of most of them: ProPL's proportions, patients, sweeps and videos kept whole."""
    return drawn_shares(cases, "propl", SHARES, 0.25, SOURCE, NOTE)


def read_gray(path: Path) -> sitk.Image:
    """Read a picture as eight-bit gray."""
    return to_bytes(read_picture(path))


def to_bytes(image: sitk.Image) -> sitk.Image:
    """The image as unsigned bytes: rounded if its values fit, else stretched over 0 to 255."""
    if image.GetPixelID() == sitk.sitkUInt8:
        return image
    values = sitk.GetArrayFromImage(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 255:
        values = (values - low) * (255 / (high - low) if high > low else 0)
    return from_picture(np.rint(values).astype(np.uint8).reshape(values.shape[-2:]))
