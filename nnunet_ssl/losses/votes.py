"""Pseudo-labels that several predictions vote on, and the cross entropy against them (DBiSL eqs. 12-14)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.dice_ce import masked_mean


def vote_dice(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean Dice of two votes (N, K, *spatial) bool; 1 where both are empty. Weights (N, K)."""
    one, other = one.flatten(2), other.flatten(2)
    both, total = (one & other).sum(2), one.sum(2) + other.sum(2)
    dice = torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0)
    return (weight * dice).sum() / weight.sum()


def class_pseudo_loss(log_probability: Tensor, confident: Tensor) -> Tensor:
    """L_pse of classes (eqs. 12 and 14): sum over branches of CE against the argmax of their mean.

    Args:
        log_probability: (A, N, classes, *spatial) of A branches.
        confident: (N, *spatial) bool, M.

    Returns:
        Scalar: the mean over confident voxels of each sample, then over samples; 0 for a sample without any.
    """
    label = log_probability.detach().exp().mean(0).argmax(1, keepdim=True)
    entropy = -sum(log.gather(1, label)[:, 0] for log in log_probability)
    return _confident_mean(torch.as_tensor(entropy), confident)


def region_pseudo_loss(logits: Tensor, confident: Tensor) -> Tensor:
    """L_pse of regions: the same with a binary CE for each region.

    Args:
        logits: (A, N, K, *spatial) of A branches.
        confident: (N, K, *spatial) bool.
    """
    label = (torch.sigmoid(logits.detach()).mean(0) > 0.5).to(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, label.expand_as(logits), reduction="none").sum(0)
    return _confident_mean(entropy, confident)


def _confident_mean(entropy: Tensor, confident: Tensor) -> Tensor:
    return masked_mean(entropy.flatten(1), confident.flatten(1)).mean()
