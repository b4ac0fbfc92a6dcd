"""Uncertainty-driven pseudo-label calibration of ProPL (eqs. 4 and 5), and the perturbations it wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Calibration = Literal["variance", "squared_variance", "off"]
Dropout = Literal["element", "channel"]


def mean_and_variance(predictions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean mu and population variance gamma over the first axis (eq. 4); gamma of one prediction is 0.

    Probabilities have a variance of at most 1/4.
    """
    return predictions.mean(0), predictions.var(0, correction=0)


def calibrate(
    mean: Tensor, variance: Tensor, calibration: Calibration = "variance", threshold: float | None = None
) -> Tensor:
    """Pseudo-label ``exp(-gamma) * mu`` (eq. 5), or a variant of it.

    Args:
        mean: mu.
        variance: gamma.
        calibration: ``squared_variance`` damps with exp(-gamma^2), as the official code does, ``off`` not at
            all.
        threshold: make the result hard, 1 above the threshold.

    >>> round(calibrate(torch.tensor(0.55), torch.tensor(0.2025)).item(), 4)  # of predictions 1 and 0.1
    0.4492
    """
    if calibration != "off":
        mean = mean * torch.exp(-(variance if calibration == "variance" else variance**2))
    return mean if threshold is None else (mean > threshold).to(mean.dtype)


def sample_dropout(
    kind: Dropout,
    passes: int,
    samples: int,
    shape: Sequence[int],
    share: float,
    generator: torch.Generator,
) -> Tensor:
    """Factors of dropout, each 0 or ``1 / (1 - share)``.

    Args:
        kind: drop single elements, or whole channels of a sample.
        passes: number of independent draws.
        samples: number of samples.
        shape: (C, *spatial) of the features.
        share: share that is dropped.
        generator: CPU generator.

    Returns:
        (passes, samples, C, *spatial) on the CPU; for ``channel`` the spatial axes have length 1.
    """
    drawn = [shape[0], *([1] * (len(shape) - 1) if kind == "channel" else shape[1:])]
    keep = torch.rand(passes, samples, *drawn, generator=generator) >= share
    return keep.float() / (1 - share)
