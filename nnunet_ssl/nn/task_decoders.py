"""Two decoders with different upsampling, each with a segmentation and a regression head (DBiSL section 3.1).

The main decoder is the planned one, with transposed convolutions. The second is the planned one with linear
interpolation and a convolution in their place. Names of weights: see ``MultiDecoderUNet``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ssl.nn.multi_decoder import MultiDecoderUNet, detached_decoder

SECOND, REGRESSION, SECOND_REGRESSION = "second", "regression", "second_regression"
HEAD_STD = 1e-3


class Branch(NamedTuple):
    """What one decoder makes of a batch.

    Attributes:
        segmentation: logits (B, channels, *spatial_s), the full resolution first; one entry without deep
            supervision.
        regression: signed distance maps (B, K, *spatial) in (-1, 1), in float32; ``None`` without the head.
    """

    segmentation: list[Tensor]
    regression: Tensor | None


def run_branches(parts: MultiDecoderUNet, x: Tensor, second: bool, regression: bool) -> list[Branch]:
    """All of an update: one pass through the encoder and one through each decoder.

    Args:
        parts: the network.
        x: images (B, C, *spatial).
        second: whether the second decoder runs.
        regression: whether the regression heads run.
    """
    skips, decoders = parts.encoder(x), [(parts.decoder, REGRESSION)]
    if second:
        decoders.append((parts.extra(SECOND), SECOND_REGRESSION))
    branches = []
    for decoder, head in decoders:
        outputs, features = decode(decoder, skips, parts.decoder.deep_supervision)
        branches.append(Branch(outputs, parts.extra(head)(features) if regression else None))
    return branches


def decode(decoder: Any, skips: Sequence[Tensor], deep_supervision: bool) -> tuple[list[Tensor], Tensor]:
    """What nnU-Net's decoder computes, with its last features.

    Returns:
        Logits, the full resolution first (and alone without deep supervision), and the features
        (B, C, *spatial) behind it.
    """
    x, outputs = skips[-1], []
    for s in range(len(decoder.stages)):
        x = decoder.stages[s](torch.cat([decoder.transpconvs[s](x), skips[-(s + 2)]], 1))
        if deep_supervision:
            outputs.append(decoder.seg_layers[s](x))
    return (outputs[::-1] if deep_supervision else [decoder.seg_layers[-1](x)]), x


class InterpolatedUpsampling(nn.Module):
    """Linear interpolation and a 1x1 convolution, in place of a transposed convolution.

    Both are linear and act on different axes, so they may change places: the convolution goes first, where
    it has a fraction of the voxels to work on.

    Args:
        transposed: the layer to replace; its channels and stride are taken over.
    """

    def __init__(self, transposed: nn.Module) -> None:
        super().__init__()
        layer: Any = transposed
        convolution = {nn.ConvTranspose2d: nn.Conv2d, nn.ConvTranspose3d: nn.Conv3d}[type(layer)]
        self.conv = convolution(layer.in_channels, layer.out_channels, 1, bias=layer.bias is not None)
        nn.init.kaiming_normal_(self.conv.weight, a=1e-2)  # as nnU-Net starts its convolutions
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.stride = tuple(float(s) for s in layer.stride)
        self.mode = {2: "bilinear", 3: "trilinear"}[len(self.stride)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *spatial) to (B, C_out, *(spatial * stride))."""
        return F.interpolate(self.conv(x), scale_factor=self.stride, mode=self.mode)


class RegressionHead(nn.Module):
    """H_r: a 1x1 convolution and tanh.

    It starts near 0: with He's size tanh would be saturated, and k R of T_r2s in the hundreds.

    Args:
        decoder: the decoder whose last features it reads.
        maps: number K of distance maps.
    """

    def __init__(self, decoder: Any, maps: int) -> None:
        super().__init__()
        layer = decoder.seg_layers[-1]
        self.conv = type(layer)(layer.in_channels, maps, 1)
        nn.init.normal_(self.conv.weight, std=HEAD_STD)
        nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *spatial) to (B, K, *spatial), in float32: near a border R is small."""
        signed: Tensor = torch.tanh(self.conv(features).float())
        return signed


def interpolating_decoder(planned: nn.Module, deep_supervision: bool) -> Any:
    """The decoder of a planned network with interpolation in place of its transposed convolutions."""
    decoder = detached_decoder(planned, deep_supervision)
    decoder.transpconvs = nn.ModuleList([InterpolatedUpsampling(layer) for layer in decoder.transpconvs])
    return decoder


def regression_heads(maps: int, decoder: Any, second: Any | None) -> dict[str, nn.Module]:
    """The heads of one or two decoders, under their names."""
    heads: dict[str, nn.Module] = {REGRESSION: RegressionHead(decoder, maps)}
    if second is not None:
        heads[SECOND_REGRESSION] = RegressionHead(second, maps)
    return heads


class TwoBranchUNet(MultiDecoderUNet):
    """Prediction is the mean of both decoders' probabilities, so ``second`` is not for training only.

    The output are logits whose softmax (or sigmoid, of regions) is that mean, so that all that nnU-Net makes
    of logits is right.

    Args:
        planned: nnU-Net's network; its encoder and decoder are taken over.
        has_background: whether the channels are classes (softmax) or regions (sigmoid).
        parts: ``second``, with all segmentation layers, so that weights load in every mode; and parts that
            only training needs.
    """

    def __init__(self, planned: nn.Module, has_background: bool, **parts: nn.Module) -> None:
        super().__init__(planned, **parts)
        self.has_background = has_background

    def predict(self, x: Tensor) -> Tensor | list[Tensor]:
        """Mean logits (a list of resolutions with deep supervision)."""
        deep, skips = self.decoder.deep_supervision, self.encoder(x)
        both = [decode(d, skips, deep)[0] for d in (self.decoder, self.extra(SECOND))]
        outputs = [mean_logits(a, b, self.has_background) for a, b in zip(*both, strict=True)]
        return outputs if deep else outputs[0]


def mean_logits(a: Tensor, b: Tensor, has_background: bool) -> Tensor:
    """Logits of the mean of two predictions' probabilities; in float32, stable however sure they are.

    Args:
        a: logits (B, channels, *spatial).
        b: logits of the same shape.
        has_background: classes (softmax over channels) or regions (sigmoid each).
    """
    a, b = a.float(), b.float()
    if has_background:
        return torch.logaddexp(a.log_softmax(1), b.log_softmax(1)) - math.log(2)
    yes = torch.logaddexp(F.logsigmoid(a), F.logsigmoid(b))
    no = torch.logaddexp(F.logsigmoid(-a), F.logsigmoid(-b))
    return yes - no


def branched_network(
    planned: nn.Module, second: nn.Module | None, maps: int, mean_of: bool, has_background: bool
) -> nn.Module:
    """Put a network of one or two branches together.

    Args:
        planned: nnU-Net's network.
        second: another decoder, by ``interpolating_decoder``.
        maps: distance maps of each branch; 0 for no regression heads.
        mean_of: whether prediction is the mean of both branches.
        has_background: whether the channels are classes.
    """
    parts: dict[str, nn.Module] = {} if second is None else {SECOND: second}
    if maps:
        parts |= regression_heads(maps, planned.decoder, second)
    if mean_of:
        return TwoBranchUNet(planned, has_background, **parts)
    return MultiDecoderUNet(planned, **parts)
