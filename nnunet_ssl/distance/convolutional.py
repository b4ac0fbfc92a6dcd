"""The paper's distance transform: a front carried outwards by convolutions (eq. 2; Riba et al. 2020)."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_distance_transform(mask: Tensor, kernel_size: int = 3, h: float = 0.35) -> Tensor:
    """Distance to the foreground in voxels, approximately, with gradients in every seed's value.

    Each round convolves the reached region with ``K = exp(-|v| / h)`` and gives the voxels it newly reaches
    ``-h log(K * region)`` plus the radius of the rounds before. So the first ``kernel_size // 2`` voxels
    around a lone seed are exact and the error grows from there: a front of kernel 3 moves one voxel a round,
    along diagonals too. Beside a plane the first layer is at 0.6499 in 3D and 0.8328 in 2D, not at 1.

    A seed's value below 1 makes it farther, and every value above 0 is a seed: threshold probabilities first,
    or the front is everywhere at once. A hole of one voxel vanishes where ``off_centre_sum`` reaches 1.

    Args:
        mask: (B, C, *spatial), values in [0, 1]; a border is treated as if its voxels went on.
        kernel_size: odd edge of the kernel.
        h: softness of the minimum, in voxels.

    Returns:
        Same shape, in float32 or better; 0 on seeds and wherever no front arrives.
    """
    mask = mask.to(torch.promote_types(mask.dtype, torch.float32))
    with torch.autocast(mask.device.type, enabled=False):
        kernel = exponential_kernel(kernel_size, h, mask)
        distance, reached, radius = 0 * mask, mask, 0  # part of the graph, whatever is reached
        for _ in range(max(mask.shape[2:])):
            field = filter_channels(reached, kernel, "replicate")
            positive = field > 0  # else log(0), whose gradient is no number even where it is not taken
            outwards = -h * torch.log(torch.where(positive, field, torch.ones_like(field)))
            new = outwards > 0
            if not bool(new.any()):
                break
            distance = distance + torch.where(new, outwards + radius, torch.zeros_like(outwards))
            reached = torch.where(new, torch.ones_like(reached), reached)
            radius += kernel_size // 2
        return distance


def filter_channels(x: Tensor, kernel: Tensor, border: Literal["replicate", "zeros"]) -> Tensor:
    """Correlate every channel of (B, C, *spatial) with one kernel (k, ...)."""
    dims, radius = kernel.ndim, kernel.shape[0] // 2
    convolution = F.conv2d if dims == 2 else F.conv3d
    rows, padding = x.flatten(0, 1)[:, None], radius
    if border == "replicate":
        rows, padding = F.pad(rows, [radius] * (2 * dims), mode="replicate"), 0
    return convolution(rows, kernel[None, None], padding=padding).view_as(x)


def off_centre_sum(kernel_size: int, h: float, dims: int) -> float:
    """What reached neighbours on all sides add up to; from 1 on the voxel between them counts as reached."""
    return sum(math.exp(-d / h) for d in _offsets(kernel_size, dims) if d > 0)


def exponential_kernel(kernel_size: int, h: float, like: Tensor) -> Tensor:
    """K of eq. 2, (kernel_size, ...) with as many axes, and on the device, as ``like`` (B, C, *spatial)."""
    dims = like.ndim - 2
    weights = [math.exp(-d / h) for d in _offsets(kernel_size, dims)]
    return torch.tensor(weights, dtype=like.dtype, device=like.device).view(*[kernel_size] * dims)


def _offsets(kernel_size: int, dims: int) -> list[float]:
    """Length of every vector in the kernel, in the order of its memory."""
    radius = kernel_size // 2
    return [math.hypot(*v) for v in itertools.product(range(-radius, radius + 1), repeat=dims)]
