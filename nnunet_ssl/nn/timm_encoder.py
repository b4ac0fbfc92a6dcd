"""A timm ConvNeXt as encoder (ProPL's paper takes ConvNeXt-Tiny), with nnU-Net's decoder behind it.

ConvNeXt starts at a quarter of the resolution. Two convolutional stages at the full and at half the
resolution, as nnU-Net has them, give the decoder the fine features that it ends with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunet_ssl.errors import ConfigError, DataError

FINE_FEATURES = (32, 64)  # nnU-Net's first two stages
BACKBONE_STAGES = 4
STRIDES = [[1, 1]] + [[2, 2]] * 5
STAGES = len(STRIDES)


class TimmEncoder(nn.Module):
    """Two fine stages and the four of a ConvNeXt; says about itself what nnU-Net's decoder asks.

    Args:
        name: a ConvNeXt of timm.
        input_channels: channels of the image.
        weights: file with pretrained weights, ``None`` for random ones. A first layer for three colours is
            adapted to other numbers of channels.

    Raises:
        ConfigError: timm has no such ConvNeXt.
        DataError: the weights cannot be read or belong to another network.
    """

    def __init__(self, name: str, input_channels: int, weights: str | None = None) -> None:
        super().__init__()
        self.conv_op, self.norm_op = nn.Conv2d, nn.InstanceNorm2d
        self.norm_op_kwargs: dict[str, Any] = {"eps": 1e-5, "affine": True}
        self.nonlin, self.nonlin_kwargs = nn.LeakyReLU, {"inplace": True}
        self.dropout_op, self.dropout_op_kwargs, self.conv_bias = None, None, True
        self.backbone = _backbone(name, input_channels, weights)
        half = _fine_stage(FINE_FEATURES[0], FINE_FEATURES[1], 2)
        self.fine = nn.ModuleList([_fine_stage(input_channels, FINE_FEATURES[0], 1), half])
        self.output_channels = [*FINE_FEATURES, *self.backbone.feature_info.channels()]
        self.strides = STRIDES
        self.kernel_sizes = [[3, 3]] * STAGES

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of the six stages, the finest first."""
        full = self.fine[0](x)
        return [full, self.fine[1](full), *self.backbone(x)]


class TimmUNet(nn.Module):
    """``TimmEncoder`` and nnU-Net's decoder, under the names of nnU-Net's networks."""

    def __init__(
        self,
        name: str,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = TimmEncoder(name, input_channels, weights)
        self.decoder = UNetDecoder(self.encoder, num_classes, 2, deep_supervision)
        initialize = InitWeights_He(1e-2)  # nnU-Net's; timm has initialised its own part
        self.encoder.fine.apply(initialize)
        for part in (self.decoder.stages, self.decoder.transpconvs, self.decoder.seg_layers):
            part.apply(initialize)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits, a list of resolutions with deep supervision."""
        outputs: Tensor | list[Tensor] = self.decoder(self.encoder(x))
        return outputs


def check_timm_plans(patch_size: Sequence[int], strides: Sequence[int | Sequence[int]]) -> None:
    """Raise ``ConfigError`` if a ConvNeXt cannot stand in for a planned encoder.

    Targets of deep supervision come in the planned resolutions, so those must be halved as ConvNeXt halves.
    """
    if len(patch_size) != 2:
        raise ConfigError("timm_encoder is for 2D configurations: timm's ConvNeXt has no 3D form. Unset it.")
    if any(s % 32 or s < 64 for s in patch_size):
        raise ConfigError(
            f"timm_encoder halves five times: expected a patch_size of multiples of 32, at least 64, got "
            f"{list(patch_size)}. Set patch_size with 'nnUNetv2_ssl configure', or unset timm_encoder."
        )
    halving = [[s, s] if isinstance(s, int) else list(s) for s in strides[1:STAGES]]
    if halving != [[2, 2]] * (STAGES - 1):
        raise ConfigError(
            f"timm_encoder needs plans that halve both axes five times; these have the strides "
            f"{list(strides)}. Plan larger patches, or unset timm_encoder."
        )


def _backbone(name: str, input_channels: int, weights: str | None) -> Any:
    import timm
    from safetensors import SafetensorError

    if not name.startswith("convnext") or name.split(".")[0] not in timm.list_models("convnext*"):
        known = ", ".join(timm.list_models("convnext*")[:12])
        raise ConfigError(f"timm_encoder: expected one of timm's ConvNeXts ({known}, ...), got '{name}'.")
    options: dict[str, Any] = {"features_only": True, "in_chans": input_channels}
    if weights is None:
        return timm.create_model(name, pretrained=False, **options)
    if not Path(weights).is_file():
        raise DataError(f"timm_weights: expected a file with weights of {name}, but '{weights}' is none.")
    try:
        found = timm.models.load_state_dict(weights)
        lacking = [
            k for k in range(BACKBONE_STAGES) if not any(key.startswith(f"stages.{k}.") for key in found)
        ]
        if lacking:  # timm itself would leave them as they were drawn
            raise KeyError(f"nothing of stages {lacking}")
        overlay = {"state_dict": found}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, KeyError, ValueError, OSError, UnpicklingError, SafetensorError) as error:
        raise DataError(f"timm_weights: '{weights}' holds no weights of {name} ({error}).") from error


def _fine_stage(channels: int, features: int, stride: int) -> nn.Module:
    return StackedConvBlocks(
        2,
        nn.Conv2d,
        channels,
        features,
        3,
        stride,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
