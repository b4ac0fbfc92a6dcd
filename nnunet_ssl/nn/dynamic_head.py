"""The task-prompted dynamic head of VerSemi / UniSeMi (eq. 1).

One 1x1x1 convolution psi, here a linear layer, maps [GAP(bottleneck), prompt] to the filters of a small head:

    w_k = psi(GAP(embedding), prompt_k),    P_k = softmax(features * w_k).

GAP does not know the prompt, so one encoder-decoder pass serves every prompt.

Shapes: B samples, C bottleneck channels, K prompts, W head width, N voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

HEAD_WIDTH = 8
HEAD_LAYERS = (
    (HEAD_WIDTH, HEAD_WIDTH),
    (HEAD_WIDTH, HEAD_WIDTH),
    (HEAD_WIDTH, 2),
)  # (in, out) of 1x1x1 layers
NUM_FILTERS = sum(i * o + o for i, o in HEAD_LAYERS)  # 162


class FilterController(nn.Module):
    """psi of eq. 1: filters for every prompt at once.

    Args:
        channels: channels C of the bottleneck.
        prompts: (K, D) prompt vectors; a buffer, or a parameter if ``learned``.
        learned: train the prompt vectors ("soft" prompts, Table VIII).
    """

    def __init__(self, channels: int, prompts: Tensor, learned: bool = False) -> None:
        super().__init__()
        self.psi = nn.Linear(channels + prompts.shape[1], NUM_FILTERS)
        # A prompt has norm 1 and GAP many channels. Counted into one fan-in, as by default, the prompt has
        # no say at first and all prompts get the same filters; so its columns get He's size for the head.
        nn.init.normal_(self.psi.weight.data[:, channels:], std=(2 / HEAD_WIDTH) ** 0.5)
        if learned:
            self.prompts = nn.Parameter(prompts)
        else:
            self.register_buffer("prompts", prompts)

    def forward(self, bottleneck: Tensor) -> Tensor:
        """Filters (B, K, 162) from the bottleneck (B, C, *spatial)."""
        gap = bottleneck.flatten(2).mean(2)
        # psi([gap, prompt]) split by its columns: the part of GAP is computed once for all prompts.
        by_image, by_prompt = self.psi.weight.split([gap.shape[1], self.prompts.shape[1]], dim=1)
        return nn.functional.linear(gap, by_image)[:, None] + nn.functional.linear(
            self.prompts, by_prompt, self.psi.bias
        )


def prompted_log_odds(features: Tensor, filters: Tensor) -> Tensor:
    """Run the dynamic head.

    Args:
        features: (B, W, *spatial), squeezed decoder features.
        filters: (B, Q, 162), the filters of Q prompts for each sample.

    Returns:
        (B, Q, *spatial): log-odds ``l1 - l0`` of the two-channel softmax. Only the difference of the last
        layer's two rows enters the softmax, so only the difference is computed.
    """
    batch, prompts = filters.shape[:2]
    spatial = features.shape[2:]
    weights, biases = split_filters(filters)
    # The first layer of all prompts of a sample reads the same features: one matrix product, no copies of
    # them.
    x = weights[0].flatten(1, 2) @ features.flatten(2)
    x = torch.relu(x.view(batch, prompts, HEAD_WIDTH, -1) + biases[0][..., None])
    x = torch.relu(weights[1] @ x + biases[1][..., None])
    last, offset = weights[2][:, :, 1] - weights[2][:, :, 0], biases[2][..., 1] - biases[2][..., 0]
    x = (last[:, :, None] @ x)[:, :, 0] + offset[..., None]
    return x.view(batch, prompts, *spatial)


def split_filters(filters: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Cut (B, Q, 162) into weights (B, Q, out, in) and biases (B, Q, out) of the three layers."""
    sizes = [i * o for i, o in HEAD_LAYERS] + [o for _, o in HEAD_LAYERS]
    parts = filters.split(sizes, dim=-1)
    weights = [p.unflatten(-1, (o, i)) for p, (i, o) in zip(parts[:3], HEAD_LAYERS, strict=True)]
    return weights, list(parts[3:])


def prompt_vectors(kind: str, count: int, text: Sequence[Sequence[float]] | None, width: int = 32) -> Tensor:
    """Prompt vectors (count, D): one-hot, random to be learned ("soft") or text embeddings (Table VIII)."""
    if kind == "one_hot":
        return torch.eye(count)
    if kind == "soft":
        return torch.randn(count, width) / width**0.5
    assert text is not None
    vectors = torch.tensor(text, dtype=torch.float32)
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-8)
