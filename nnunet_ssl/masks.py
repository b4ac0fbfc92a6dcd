"""Copy-paste masks: drawn per sample from a passed generator, sized from the actual patch, in 2D and 3D.

A mask is a float tensor (B, 1, *spatial) with 0 inside the pasted region and 1 elsewhere, so that
``x_mix = x_i * M + x_j * (1 - M)`` (VerSemi eq. 2). Randomness lies on the CPU, whatever the device of the
mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MaskKind = Literal["box", "random", "slice"]
RatioOf = Literal["volume", "side"]


def sample_masks(
    kind: MaskKind,
    count: int,
    shape: Sequence[int],
    ratio: tuple[float, float],
    generator: torch.Generator,
    ratio_of: RatioOf = "volume",
) -> Tensor:
    """Draw ``count`` masks of one kind.

    Args:
        kind: ``box``, one solid box at a random position (the paper's "zero-centered" mask); ``random``, many
            cubes of edge 6; ``slice``, whole slices along the first axis (VerSemi, Table IX).
        count: number of masks.
        shape: spatial shape of the patch in voxels.
        ratio: bounds of the uniform draw of the masked share.
        generator: CPU generator.
        ratio_of: for ``box``, whether the ratio is the box's share of the volume or of each side.

    Returns:
        (count, 1, *shape) on the CPU, 0 inside.
    """
    fractions = ratio[0] + (ratio[1] - ratio[0]) * torch.rand(count, generator=generator)
    if kind == "box":
        return _box_masks(fractions, shape, generator, ratio_of)
    if kind == "random":
        return _cube_masks(fractions, shape, generator)
    return _slice_masks(fractions, shape, generator)


def leave_whole(masks: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Set masks to 1 everywhere, all but a share of ``probability``: ``mix`` leaves those images whole.

    Args:
        masks: (N, 1, *spatial), of any dtype and device.
        probability: of a mask to stay as it is.
        generator: CPU generator.
    """
    whole = torch.rand(len(masks), generator=generator) >= probability
    return masks.masked_fill(whole.to(masks.device).view(-1, *[1] * (masks.ndim - 1)), 1)


def mix(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """``a`` where the mask is 1, ``b`` where it is 0 (VerSemi eq. 2); any dtype, channels alike."""
    return torch.where(mask.bool(), a, b)


def mix_targets(targets: Sequence[Tensor], partner: Tensor, mask: Tensor) -> list[Tensor]:
    """Targets of every resolution, mixed with those of their partners as the images are."""
    return [mix(t, t[partner], resize_masks(mask, t.shape[2:])) for t in targets]


def same_task_partners(tasks: Tensor) -> Tensor:
    """With whom each labelled sample is mixed: (B,) a permutation within each task.

    Of another task the labels of the pasted region would be unknown. A sample that is alone in its task is
    mixed with itself, which changes nothing.
    """
    partner = torch.arange(len(tasks), device=tasks.device)
    for task in tasks.unique():
        rows = (tasks == task).nonzero().flatten()
        partner[rows] = rows.roll(max(len(rows) // 2, 1))
    return partner


def resize_masks(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring masks to a lower resolution as nnU-Net brings labels to those of deep supervision; any dtype."""
    if tuple(mask.shape[2:]) == tuple(shape):
        return mask
    return F.interpolate(mask.float(), size=list(shape), mode="nearest-exact").to(mask.dtype)


def _box_masks(
    fractions: Tensor, shape: Sequence[int], generator: torch.Generator, ratio_of: RatioOf
) -> Tensor:
    """Boxes with the patch's own proportions; every position that fits is equally likely, the last too."""
    size = _box_sizes(fractions, shape, ratio_of)
    room = torch.tensor(shape) - size + 1
    start = (torch.rand(size.shape, generator=generator) * room).long()
    inside = torch.ones(len(fractions), *shape, dtype=torch.bool)
    for axis, length in enumerate(shape):
        position = torch.arange(length)
        along = (position >= start[:, axis, None]) & (position < (start + size)[:, axis, None])
        inside &= along.view(-1, *[length if a == axis else 1 for a in range(len(shape))])
    return (~inside).float()[:, None]


def _box_sizes(fractions: Tensor, shape: Sequence[int], ratio_of: RatioOf) -> Tensor:
    """Edges (count, dims) in voxels.

    Of a volume, the short edges are rounded first and the longer ones make good for it: in a thin patch three
    edges rounded one by one would miss the share by far.
    """
    size = torch.empty(len(fractions), len(shape), dtype=torch.long)
    rest = fractions
    for done, axis in enumerate(sorted(range(len(shape)), key=lambda a: shape[a])):
        side = fractions if ratio_of == "side" else rest ** (1.0 / (len(shape) - done))
        size[:, axis] = torch.round(side * shape[axis]).clamp(1, shape[axis]).long()
        rest = rest * shape[axis] / size[:, axis]
    return size


def _cube_masks(fractions: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Cubes grown from Bernoulli seeds.

    A voxel stays free if none of its ``edge^d`` possible seeds is set, so the seeds' probability
    ``1 - (1 - f)^(1 / edge^d)`` masks the share ``f`` on average.
    """
    dim, edge = len(shape), 6
    seed_probability = 1 - (1 - fractions) ** (1.0 / edge**dim)
    padded = [s + edge - 1 for s in shape]
    draw = torch.rand(len(fractions), 1, *padded, generator=generator)
    seeds = (draw < seed_probability.view(-1, 1, *[1] * dim)).float()
    pool = F.max_pool2d if dim == 2 else F.max_pool3d
    return 1.0 - pool(seeds, edge, stride=1)


def _slice_masks(fractions: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Random slices along the first axis (nnU-Net orders axes so that it is the one of lowest resolution)."""
    length = shape[0]
    count = torch.round(fractions * length)
    rank = torch.rand(len(fractions), length, generator=generator).argsort(1).argsort(1)
    keep = (rank >= count[:, None]).float()
    return keep.view(len(fractions), 1, length, *[1] * (len(shape) - 1)).expand(-1, -1, *shape).clone()


def cube_grid_masks(count: int, shape: Sequence[int], share: float, generator: torch.Generator) -> Tensor:
    """Cut the patch into cubes of edge 16 and mask a share, drawn without replacement (PICK, Table 7, v1).

    Cubes at the far faces are cut off by them. In a patch shorter than two cubes the edge is halved until two
    fit along its longest axis: of a single cube all or nothing would be masked.

    Args:
        count: number of masks.
        shape: spatial shape of the patch in voxels.
        share: share of the cubes, rounded to whole ones.
        generator: CPU generator.

    Returns:
        (count, 1, *shape) on the CPU, 0 inside.
    """
    edge = 16
    while edge > 1 and max(shape) < 2 * edge:
        edge //= 2
    cells = [-(-s // edge) for s in shape]
    order = torch.rand(count, math.prod(cells), generator=generator).argsort(1)
    masks = (order.argsort(1) >= round(share * math.prod(cells))).float().view(count, 1, *cells)
    for axis, length in enumerate(shape, start=2):
        masks = masks.repeat_interleave(edge, axis).narrow(axis, 0, length)
    return masks.contiguous()
