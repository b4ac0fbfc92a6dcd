"""T_s2r and T_r2s, the two transforms between the tasks (DBiSL, eqs. 1-5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnunet_ssl.distance.convolutional import exponential_kernel, filter_channels, soft_distance_transform
from nnunet_ssl.distance.exact import distance_to

Form = Literal["exact", "convolution"]
LEAST_KEPT = 0.9  # Dice with itself that a mask must keep at the lower resolution to be transformed there


class _Options(NamedTuple):
    form: Form
    kernel_size: int
    h: float
    band: float


def distance_logits(distance: Tensor, k: float = 200.0) -> Tensor:
    """``k R``, the log-odds of T_r2s: what cross entropy wants in place of a saturated sigmoid."""
    return k * distance.to(torch.promote_types(distance.dtype, torch.float32))


def distance_to_seg(distance: Tensor, k: float = 200.0) -> Tensor:
    """T_r2s(R) = 1 / (1 + exp(-k R)) (eq. 1): the probability of foreground of a signed distance map.

    Args:
        distance: any shape, values in [-1, 1], **positive inside**. The paper's text has it negative inside,
            which its eq. 1 contradicts.
        k: steepness. At 200 a map inverts with a soft Dice of at least 0.994 and its gradient lives; at 1500
            the gradient is gone a few voxels from the border.

    Returns:
        Same shape, in float32 or better.
    """
    return torch.sigmoid(distance_logits(distance, k))


def seg_to_distance(
    prob: Tensor,
    scale: float = 1.0,
    *,
    spacing: Sequence[float] | None = None,
    form: Form = "exact",
    kernel_size: int = 3,
    h: float = 0.35,
    band: float | None = None,
) -> Tensor:
    """T_s2r(Y) = S_in / max S_in - S_out / max S_out (eqs. 3-5), the signed normalised distance map.

    A voxel is inside where ``prob > 0.5``. S_in is its distance to the nearest voxel outside, S_out the
    distance of one outside to the nearest inside. Both minima of eq. 4 are 0. A map without foreground is -1
    everywhere, one without background +1.

    Values and gradient are of two makes. ``convolution`` is the paper's: both from the iterated convolution,
    the threshold passed straight through. ``exact`` takes the values from the exact transform and the
    gradient from the kernel of eq. 2: raising the probability of a voxel by 1 raises R at each voxel v around
    by ``K(v) / max S``, about what moving the border by a voxel does. It is faster, does not err far from the
    border, and leads out of an empty map (benchmarks/distance_transform.py). To both the maxima are
    constants: else nearly all of the gradient would fall on the one farthest voxel.

    Args:
        prob: (B, C, *spatial) probabilities or masks.
        scale: resolution of the transform relative to that of ``prob``; the result is interpolated back.
            Channels that would lose their shape there, small targets, are transformed at the full resolution.
        spacing: edge lengths of a voxel, for ``exact``; the paper's form counts voxels.
        form: ``exact`` or ``convolution``.
        kernel_size: edge of the kernel of eq. 2.
        h: softness of the kernel of eq. 2, in voxels.
        band: distances above it, in the unit of ``spacing``, are cut down to it before normalisation.

    Returns:
        (B, C, *spatial) in [-1, 1], positive inside, in float32 or better.

    Raises:
        ValueError: an anisotropic spacing for the form that counts voxels.
    """
    if form == "convolution" and spacing is not None and len(set(spacing)) > 1:
        raise ValueError(
            f"The convolutional transform counts voxels and knows no spacing, got {tuple(spacing)}."
        )
    prob = prob.to(torch.promote_types(prob.dtype, torch.float32))
    options = _Options(form, kernel_size, h, math.inf if band is None else band)
    with torch.autocast(prob.device.type, enabled=False):
        if scale >= 1 or prob.numel() == 0:
            return _normalized(_signed_distance(prob, spacing, options))
        return _normalized(_at_lower_resolution(prob, scale, spacing, options))


def known_distance(inside: Tensor, ignored: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """Where a distance label holds beside ignored voxels: where the nearest border is a known one.

    An ignored voxel may hide a border. A voxel closer to a known border than to any ignored voxel has the
    same distance whatever is hidden; the distance of all others is unknown.

    Args:
        inside: (B, C, *spatial) bool, ignored voxels outside.
        ignored: (B, *spatial) bool.
        spacing: edge lengths of a voxel.

    Returns:
        (B, C, *spatial) bool.
    """
    flat = inside.flatten(0, 1)
    border = torch.where(flat, distance_to(~flat, spacing), distance_to(flat, spacing)).view(inside.shape)
    hidden = distance_to(ignored, spacing)[:, None]
    return (border < hidden) | torch.isinf(hidden)


def _signed_distance(prob: Tensor, spacing: Sequence[float] | None, options: _Options) -> Tensor:
    """S_in - S_out, not normalised; of a map without a border plus or minus the longest distance there is."""
    if options.form == "exact":
        signed: Tensor = _ExactSignedDistance.apply(prob, spacing, options)
        return signed
    inside: Tensor = _Threshold.apply(prob)
    within, beyond = (
        soft_distance_transform(m, options.kernel_size, options.h).clamp(max=options.band)
        for m in (1 - inside, inside)
    )
    return _with_one_sided(within - beyond, inside.detach().bool(), spacing, options.band)


class _ExactSignedDistance(torch.autograd.Function):
    """Values of the exact transform, gradient of the soft one; see ``seg_to_distance``."""

    @staticmethod
    def forward(ctx: Any, prob: Tensor, spacing: Sequence[float] | None, options: _Options) -> Tensor:
        ctx.options = options
        inside = prob > 0.5
        flat, signed = inside.flatten(0, 1), torch.zeros_like(prob).flatten(0, 1)
        # Of many classes few are in a patch: maps without a border are filled in, not transformed
        border = (flat.flatten(1).any(1) & ~flat.flatten(1).all(1)).nonzero()[:, 0]
        own = flat[border]
        within, beyond = distance_to(torch.cat([~own, own]), spacing, options.band, prob.dtype).chunk(2)
        signed[border] = torch.where(own, within, -beyond)
        return _with_one_sided(signed.view_as(prob), inside, spacing, options.band)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(gradient.device.type, enabled=False):
            kernel = exponential_kernel(ctx.options.kernel_size, ctx.options.h, like=gradient)
            return filter_channels(gradient, kernel, "zeros"), None, None


def _with_one_sided(signed: Tensor, inside: Tensor, spacing: Sequence[float] | None, band: float) -> Tensor:
    """Fill in the maps without a border."""
    spatial = inside.shape[2:]
    edges = [s * n for s, n in zip(spacing or [1.0] * len(spatial), spatial, strict=True)]
    longest, per_map = min(band, math.hypot(*edges)), (*inside.shape[:2], *[1] * len(spatial))
    full = inside.flatten(2).all(2).view(per_map)
    empty = ~inside.flatten(2).any(2).view(per_map)
    return signed.masked_fill(full, longest).masked_fill(empty, -longest)


def _normalized(signed: Tensor) -> Tensor:
    """Eq. 4: each side divided by its largest distance, a constant to the gradient."""
    spatial = tuple(range(2, signed.ndim))
    deepest, farthest = (s.detach().amax(spatial, keepdim=True).clamp(min=1e-6) for s in (signed, -signed))
    return signed / torch.where(signed > 0, deepest, farthest)


class _Threshold(torch.autograd.Function):
    """1 where above 0.5; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, prob: Tensor) -> Tensor:
        return (prob > 0.5).to(prob.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _at_lower_resolution(
    prob: Tensor, scale: float, spacing: Sequence[float] | None, options: _Options
) -> Tensor:
    """Transform what keeps its shape at the lower resolution there, all else at the full one.

    Distances are interpolated before they are normalised: with sides divided by different numbers, the zero
    between two voxels would move towards the side with the larger one.
    """
    shape = prob.shape[2:]
    rows = prob.flatten(0, 1)[:, None]
    low = F.interpolate(rows, [max(1, round(n * scale)) for n in shape], mode="area")
    kept = _dice(F.interpolate((low > 0.5).to(low), shape, mode="nearest"), rows > 0.5) >= LEAST_KEPT
    coarse, fine = kept.nonzero().flatten(), kept.logical_not().nonzero().flatten()
    edges = [s * n / m for s, n, m in zip(spacing or [1.0] * len(shape), shape, low.shape[2:], strict=True)]
    parts, options_low = [], options
    if len(coarse):
        if options.form == "convolution":  # it counts voxels of the lower resolution
            options_low = options._replace(band=options.band * scale)
        signed = _signed_distance(low[coarse], edges, options_low)
        parts.append(F.interpolate(signed, shape, mode="bilinear" if len(shape) == 2 else "trilinear"))
    if len(fine):
        parts.append(_signed_distance(rows[fine], spacing, options))
    order = torch.cat([coarse, fine]).argsort()
    return torch.cat(parts)[order].view_as(prob)


def _dice(p: Tensor, q: Tensor) -> Tensor:
    """Dice of each row's two masks; 1 where both are empty."""
    p, q = p.bool().flatten(1), q.bool().flatten(1)
    return (2 * (p & q).sum(1) + 1e-6) / (p.sum(1) + q.sum(1) + 1e-6)
