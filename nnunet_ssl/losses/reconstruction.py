"""Rebuilding what was hidden from an image."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_l1(rebuilt: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
    """``|rebuilt - image|`` averaged over hidden voxels and channels, then over samples (PICK eq. 8).

    A sample of which nothing is hidden counts as 0: the mean of nothing is taken as no error. It stays
    connected to ``rebuilt`` with gradient 0, since parameters that get no gradient stop distributed training.
    Each sample has its own denominator, so a small target weighs as much as a large one.

    Args:
        rebuilt: (B, C, *spatial).
        image: the original, of the same shape.
        hidden: (B, 1, *spatial) bool, what was hidden.

    Returns:
        Scalar in float32 (in float64 for such input).
    """
    dtype = torch.promote_types(rebuilt.dtype, torch.float32)
    difference = rebuilt.to(dtype) - image.to(dtype)
    # chosen before abs: what lies outside is neither seen nor sent back, even where it is not finite
    error = torch.where(hidden, difference, 0.0).abs().flatten(1).sum(1)
    count = hidden.flatten(1).sum(1) * rebuilt.shape[1]
    return (error / count.clamp(min=1)).mean()
