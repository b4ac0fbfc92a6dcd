"""nnU-Net's planned network with VerSemi's dynamic head in place of its segmentation layers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_ssl.nn.dynamic_head import FilterController, prompted_log_odds


class Prompted(NamedTuple):
    """One pass through the network, before any prompt is applied.

    Attributes:
        features: squeezed decoder features (B, 8, *spatial_s), the full resolution first; one entry without
            deep supervision.
        filters: (B, K+1, 162); the last prompt is the synthetic task "any foreground".
    """

    features: list[Tensor]
    filters: Tensor


class PromptedUNet(nn.Module):
    """Planned encoder and decoder whose segmentation layers are the 1x1 squeeze to the head's width.

    ``forward(x)`` is inference: nnU-Net's ``n_out`` channels, a list of resolutions with deep supervision.
    With classes channel 0 (background) is 0 and channel k+1 the log-odds of prompt k, so argmax picks the
    likeliest prompt that is likelier than not; with regions channel k is the log-odds of prompt k, a
    sigmoid's logit.

    Args:
        planned: nnU-Net's network built with ``num_classes = HEAD_WIDTH``.
        controller: makes the filters of K+1 prompts.
        has_background: whether the output has a background channel (classes) or not (regions).
    """

    def __init__(self, planned: nn.Module, controller: FilterController, has_background: bool) -> None:
        super().__init__()
        self.encoder: Any = planned.encoder
        self.decoder: Any = planned.decoder
        # Under the name "seg_layers" because nnU-Net's -pretrained_weights neither demands nor transfers what
        # bears it: so weights of a stock nnU-Net can start this network.
        self.head = nn.ModuleDict({"seg_layers": controller})
        self.has_background = has_background

    def forward(self, x: Tensor, prompted: bool = False) -> Tensor | list[Tensor] | Prompted:
        """Logits for inference, or features and filters for training (``prompted=True``)."""
        skips = self.encoder(x)
        decoded = self.decoder(skips)
        features = list(decoded) if isinstance(decoded, (list, tuple)) else [decoded]
        filters = self.head["seg_layers"](skips[-1])
        if prompted:
            return Prompted(features, filters)
        outputs = [self._logits(f, filters[:, :-1]) for f in features]
        return outputs if self.decoder.deep_supervision else outputs[0]

    def _logits(self, features: Tensor, filters: Tensor) -> Tensor:
        log_odds = prompted_log_odds(features, filters)
        if not self.has_background:
            return log_odds
        return torch.cat([torch.zeros_like(log_odds[:, :1]), log_odds], dim=1)
