"""Two decoders with different upsampling, each with a segmentation and a regression head (DBiSL section 3.1).

The main decoder is the planned one, with transposed convolutions. The second is the planned one with linear
interpolation and a convolution in their place. The network's own names are stock nnU-Net's; what prediction
does not need lies under ``training_only``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ssl.nn.multi_decoder import TRAINING_ONLY, MultiDecoderUNet, Result, detached_decoder

SECOND, REGRESSION, SECOND_REGRESSION = "second", "regression", "second_regression"
HEAD_STD = 1e-3


class Branch(NamedTuple):
    """What one decoder makes of a batch.

    Attributes:
        segmentation: logits (B, channels, *spatial_s), the full resolution first; one entry without deep
            supervision.
        regression: signed distance maps (B, K, *spatial) in (-1, 1), float32; ``None`` without the head.
    """

    segmentation: list[Tensor]
    regression: Tensor | None


def run_branches(parts: Any, x: Tensor) -> list[Branch]:
    """One pass through the encoder and one through each decoder the network has: all of an update."""
    skips = parts.encoder(x)
    branches = [_branch(parts.decoder, skips, parts.extra_or_none(REGRESSION))]
    second = parts.extra_or_none(SECOND)
    if second is not None:
        branches.append(_branch(second, skips, parts.extra_or_none(SECOND_REGRESSION)))
    return branches


def decode(decoder: Any, skips: Sequence[Tensor], deep_supervision: bool) -> tuple[list[Tensor], Tensor]:
    """What nnU-Net's decoder computes, its last features too.

    Returns:
        Logits, the full resolution first (and alone without deep supervision), and the features
        (B, C, *spatial) that the last of them were made from.
    """
    x, outputs = skips[-1], []
    for stage, upsample, skip, layer in zip(
        decoder.stages, decoder.transpconvs, skips[-2::-1], _aligned(decoder), strict=True
    ):
        x = stage(torch.cat([upsample(x), skip], 1))
        if layer is not None and (deep_supervision or layer is decoder.seg_layers[-1]):
            outputs.append(layer(x))
    return outputs[::-1], x
