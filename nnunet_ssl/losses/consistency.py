"""Agreement of two soft predictions."""

from __future__ import annotations

import torch
from torch import Tensor

SMOOTH = 1e-5


def soft_dice_distance(p: Tensor, q: Tensor) -> Tensor:
    """``1 - 2 sum(p q) / (sum(p^2) + sum(q^2))``, mean over samples (VerSemi eq. 7); 0 where both are equal.

    The squares matter: with plain sums in the denominator two equal soft maps would be pushed towards 0 and
    1.

    Args:
        p: probabilities (B, *spatial).
        q: probabilities of the same shape.

    Returns:
        Scalar in [0, 1), in float32 (in float64 for such input); two empty maps agree.
    """
    dtype = torch.promote_types(p.dtype, torch.float32)
    p, q = p.to(dtype).flatten(1), q.to(dtype).flatten(1)
    overlap = 2 * (p * q).sum(1) + SMOOTH
    return (1 - overlap / ((p * p).sum(1) + (q * q).sum(1) + SMOOTH)).mean()
