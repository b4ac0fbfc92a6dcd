"""Losses of signed distance maps, each compared channel by channel or pair by pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.dice_ce import masked_mean, soft_dice


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


def distance_dice_ce(
    log_odds: Tensor,
    target: Tensor,
    weight: Tensor,
    ce_weight: float,
    valid: Tensor | None = None,
    group: Tensor | None = None,
) -> Tensor:
    """Weighted sum over pairs of ``(1 - Dice) + ce_weight * CE`` (L_seg of T_r2s(R), DBiSL eq. 7).

    ``binary_dice_ce`` but for that weight: of log-odds ``k R`` the cross entropy has a gradient in R that is
    k times that of a segmentation head in its logit.

    Args:
        log_odds: (P, *spatial), k R.
        target: (P, *spatial), 0 or 1.
        weight: (P,) weight of each pair.
        ce_weight: of the cross entropy.
        valid: (P, *spatial) bool, voxels that count; ``None`` for all.
        group: (P,) long; pairs of one group share one Dice ("batch Dice"); ``None`` for a Dice per pair.

    Returns:
        Scalar in float32 or better. Finite without foreground and without a valid voxel.
    """
    z = log_odds.to(torch.promote_types(log_odds.dtype, torch.float32)).flatten(1)
    y = target.to(z.dtype).flatten(1)
    mask = None if valid is None else valid.to(z.dtype).flatten(1)
    cross_entropy = masked_mean(F.binary_cross_entropy_with_logits(z, y, reduction="none"), mask)
    dice = soft_dice(torch.sigmoid(z), y, mask, group, weight)
    return ce_weight * (weight * cross_entropy).sum() + dice
