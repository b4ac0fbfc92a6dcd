"""Dice + cross entropy of binary predictions, one per prompt.

A prompt's two-channel softmax depends on its two logits only through their difference, the log-odds ``z``:
``softmax((l0, l1))[1] = sigmoid(l1 - l0)``. All functions here take ``z``. Shapes: P pairs of a sample and a
prompt.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1e-5  # nnU-Net's


def binary_dice_ce(
    log_odds: Tensor,
    target: Tensor,
    weight: Tensor,
    valid: Tensor | None = None,
    group: Tensor | None = None,
    ce_weight: float = 1.0,
) -> Tensor:
    """Weighted sum over pairs of ``(1 - Dice) + ce_weight * CE`` (VerSemi eq. 3; DBiSL eq. 7, of T_r2s(R)).

    Args:
        log_odds: (P, *spatial).
        target: (P, *spatial), 0 or 1.
        weight: (P,) weight of each pair.
        valid: (P, *spatial) bool, voxels that count; ``None`` for all.
        group: (P,) long; pairs of one group share one Dice ("batch Dice"); ``None`` for a Dice per pair.
        ce_weight: of the cross entropy: of log-odds ``k R`` it has a gradient in R that is k times that of a
            segmentation head in its logit.

    Returns:
        Scalar in float32 (in float64 for such input). Finite without foreground and without a valid voxel.
    """
    z = log_odds.to(torch.promote_types(log_odds.dtype, torch.float32)).flatten(1)
    y = target.to(z.dtype).flatten(1)
    mask = None if valid is None else valid.to(z.dtype).flatten(1)
    cross_entropy = masked_mean(F.binary_cross_entropy_with_logits(z, y, reduction="none"), mask)
    dice = soft_dice(torch.sigmoid(z), y, mask, group, weight)
    return ce_weight * (weight * cross_entropy).sum() + dice


def soft_dice(
    probability: Tensor, target: Tensor, mask: Tensor | None, group: Tensor | None, weight: Tensor
) -> Tensor:
    """Weighted sum of ``1 - (2 sum(p y) + s) / (sum(p) + sum(y) + s)``; maps are (P, N)."""
    if mask is not None:
        probability, target = probability * mask, target * mask
    intersection = (probability * target).sum(1)
    total = probability.sum(1) + target.sum(1)
    if group is not None:
        count = int(group.max()) + 1
        intersection = intersection.new_zeros(count).index_add(0, group, intersection)
        total = total.new_zeros(count).index_add(0, group, total)
        weight = weight.new_zeros(count).index_add(0, group, weight)
    return (weight * (1 - (2 * intersection + SMOOTH) / (total + SMOOTH))).sum()


def masked_mean(value: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the second axis of (P, N) where the mask is set; 0 where nothing is."""
    if mask is None:
        return value.mean(1)
    return (value * mask).sum(1) / mask.sum(1).clamp(min=1)
