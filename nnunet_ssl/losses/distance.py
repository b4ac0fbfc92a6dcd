"""The loss of signed distance maps, compared channel by channel."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.dice_ce import masked_mean


def channel_mse(p: Tensor, q: Tensor, weight: Tensor, valid: Tensor | None = None) -> Tensor:
    """``sum_bc weight_bc * mean over voxels of (p - q)^2`` (L_mse in DBiSL eqs. 6, 7, 9 and 10).

    Args:
        p: (B, C, *spatial).
        q: the same shape.
        weight: (B, C), of each map in the sum.
        valid: bool, (B, C, *spatial): voxels that count; ``None`` for all.

    Returns:
        Scalar in float32 or better; a map without a valid voxel adds 0.
    """
    dtype = torch.promote_types(torch.promote_types(p.dtype, q.dtype), torch.float32)
    difference = (p.to(dtype) - q.to(dtype)).square().flatten(0, 1).flatten(1)
    mask = None if valid is None else valid.flatten(0, 1).flatten(1)
    return (weight.flatten().to(dtype) * masked_mean(difference, mask)).sum()
