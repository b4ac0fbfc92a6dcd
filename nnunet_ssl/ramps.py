"""Ramps: how the weight of an unlabelled term grows with training."""

from __future__ import annotations

import math


def gaussian_ramp(progress: float, length: float = 1.0) -> float:
    """Weight in (0, 1]: ``exp(-5 (1 - t/T)^2)``, 1 from ``t = T`` on.

    Args:
        progress: share of training that is done, in [0, 1].
        length: share of training after which the ramp is over (``T``); 0 means no ramp.
    """
    if length <= 0 or progress >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - max(progress, 0.0) / length) ** 2)
