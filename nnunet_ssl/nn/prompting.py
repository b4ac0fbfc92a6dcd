"""Prompting-upon-decoding of ProPL (eqs. 1 to 3): a sentence tells a decoder what to segment.

Shapes: P pairs of a sample and a prompt, C channels and N voxels of a decoder stage, K prompts, L tokens of a
sentence (padding included), D width of the text encoder, M text tokens of a stage.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SELF_HEADS = 1
CROSS_HEADS = 4
ALPHA = 1.7  # where the weight of the prompt starts (official code; the paper leaves it open)


class PromptTokens(nn.Module):
    """Token vectors of every prompt: embedded sentences (a buffer) or vectors to be learned.

    They are stored with the weights, so a trained network needs no text encoder and no file.

    Args:
        tokens: (K, L, D).
        mask: bool (K, L), false where a sentence is padded; ``None`` for no padding.
        learned: train the vectors.
    """

    def __init__(self, tokens: Tensor, mask: Tensor | None = None, learned: bool = False) -> None:
        super().__init__()
        self.mask: Tensor
        self.tokens: Tensor
        full = torch.ones(tokens.shape[:2], dtype=torch.bool)
        self.register_buffer("mask", full if mask is None else mask)
        if learned:
            self.tokens = nn.Parameter(tokens)
        else:
            self.register_buffer("tokens", tokens)

    def forward(self, prompt: Tensor) -> Tensor:
        """Tokens (P, L, D) of prompts (P,), 0 where padded.

        Padding thus adds nothing to the mix of tokens in eq. 2 (the official code lets it take part).
        """
        return torch.where(self.mask[..., None], self.tokens, 0)[prompt]


class PromptingUponDecoding(nn.Module):
    """One stage's prompting: self-attention over voxels, then cross-attention to the sentence.

        z' = z + LN(MHSA(z))                                    (eq. 1)
        tau = Conv(t) W                                         (eq. 2)
        h = z' + alpha LN(MHCA(Q = z', K = tau, V = tau))       (eq. 3)

    As in the official code both attentions also read a normalised input, which the equations do not show. It
    adds sinusoidal positions to queries and keys as well; the equations have none, and zero-padded
    convolutions before and after know where a voxel is, in 2D and 3D alike.

    Args:
        channels: channels C of the stage.
        sentence: tokens L of a sentence, padding included.
        width: width D of the text encoder.
        text_tokens: text tokens M that the sentence becomes at this stage.
    """

    def __init__(self, channels: int, sentence: int, width: int, text_tokens: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(sentence, text_tokens, kernel_size=1)
        self.project = nn.Linear(width, channels)
        self.self_in, self.self_out = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.cross_in, self.cross_out = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.self_attention = nn.MultiheadAttention(channels, SELF_HEADS, batch_first=True)
        # Few channels, as in small experiments, may not divide by 4.
        heads = math.gcd(channels, CROSS_HEADS)
        self.cross_attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.alpha = nn.Parameter(torch.tensor(ALPHA))

    def forward(self, z: Tensor, text: Tensor) -> Tensor:
        """Features of pairs under their prompts.

        Args:
            z: (P, C, *spatial).
            text: (P, L, D), 0 where padded.

        Returns:
            (P, C, *spatial).
        """
        tokens = z.flatten(2).transpose(1, 2)  # (P, N, C)
        x = self.self_in(tokens)
        tokens = tokens + self.self_out(self.self_attention(x, x, x, need_weights=False)[0])
        tau = self.project(self.mix(text))  # (P, M, C)
        x = self.cross_attention(self.cross_in(tokens), tau, tau, need_weights=False)[0]
        tokens = tokens + self.alpha * self.cross_out(x)
        return tokens.transpose(1, 2).reshape(z.shape)
