"""ProPL's network: a shared encoder, a supervised decoder (sd) and a decoder of pseudo-labels (pd), prompted.

Every prompt gives one binary map, so a decoder runs once for each pair of a sample and a prompt; the encoder
runs once for each sample.

Shapes: B samples, K prompts, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ssl.nn.multi_decoder import detached_decoder
from nnunet_ssl.nn.prompting import PromptingUponDecoding, PromptTokens

SUPERVISED, PSEUDO = "sd", "pd"
PROMPTS = "prompted.seg_layers.prompts"  # name of the token vectors in a network
Inference = Literal["pd", "sd", "mean"]
Result = TypeVar("Result")

_VOXELS_AT_ONCE = 2**21  # in one pass of prediction: a patch of 128^3, or eight of 512^2

# Logit of a prompt that was not asked: e^-50 is nothing, and half precision can still add it up.
NEVER = -50.0


class Asked(NamedTuple):
    """Which prompts are asked of which samples: sample indices (P,) and prompt indices (P,)."""

    sample: Tensor
    prompt: Tensor


class Bottleneck(NamedTuple):
    """The coarsest features: their channels, and how many voxels of the image one of theirs spans."""

    channels: int
    stride: tuple[int, ...]

    def shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """(channels, *spatial) for an image of that size."""
        return (self.channels, *(-(-s // t) for s, t in zip(size, self.stride, strict=True)))


class ProPLUNet(nn.Module):
    """Encoder, prompted decoders and the prompts.

    ``network(x)`` is inference: nnU-Net's ``n_out`` channels, a list of resolutions where nnU-Net's switch
    ``network.decoder.deep_supervision`` is on. With classes channel 0 (background) is 0 and channel k+1 the
    log-odds of prompt k, so argmax picks the likeliest prompt that is likelier than not; with regions channel
    k is the log-odds of prompt k. Prompts that are not asked (``ask``) cost nothing and are never predicted.

    ``network(x, run)`` returns ``run(network, x)``: the passes of one update within one call.

    sd bears the planned decoder's names, so weights of a stock nnU-Net can start encoder and sd; the rest
    lies under the name ``seg_layers``, which nnU-Net's ``-pretrained_weights`` does not ask for. Weights of
    parts that a network was built without are passed over when it loads, so prediction holds only what it
    uses.

    Args:
        encoder: gives features of every stage, the coarsest last.
        decoders: nnU-Net decoders of one output channel by name; pd has no deep supervision.
        prompts: token vectors; ``None`` without prompting (an ablation: all prompts give the same map).
        layers: the decoders' prompting layers by name, for the coarsest stages, the coarsest first.
        num_prompts: number K of prompts.
        has_background: whether the output has a background channel (classes) or not (regions).
        inference: which decoder predicts; ``mean`` averages the log-odds of both.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoders: Mapping[str, nn.Module],
        prompts: PromptTokens | None,
        layers: Mapping[str, Sequence[nn.Module]],
        num_prompts: int,
        has_background: bool,
        inference: Inference = "pd",
    ) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.decoder: Any = decoders.get(SUPERVISED)
        rest = nn.ModuleDict({f"layers_{name}": nn.ModuleList(stages) for name, stages in layers.items()})
        if PSEUDO in decoders:
            rest[PSEUDO] = decoders[PSEUDO]
        if prompts is not None:
            rest["prompts"] = prompts
        self.prompted = nn.ModuleDict({"seg_layers": rest})
        self.num_prompts = num_prompts
        self.has_background = has_background
        self.inference = inference
        self.asked: Tensor | None
        self._asked: Tensor | Asked | None
        self.ask(None)
        self.register_load_state_dict_pre_hook(_pass_over_missing_parts)

    # Inference

    def ask(self, keep: Tensor | None) -> None:
        """Decide which prompts inference asks from now on.

        Args:
            keep: bool (K,) for every sample alike, (B, K) for each sample of batches of that size, or
                ``None`` for all prompts.
        """
        self.asked = keep
        if keep is None:
            self._asked = None
        elif keep.ndim == 1:
            self._asked = keep.nonzero()[:, 0]
        else:
            self._asked = Asked(*keep.nonzero(as_tuple=True))

    def forward(
        self, x: Tensor, run: Callable[[ProPLUNet, Tensor], Result] | None = None
    ) -> Tensor | list[Tensor] | Result:
        """Logits, or what ``run`` returns."""
        return self._predict(x) if run is None else run(self, x)

    def _predict(self, x: Tensor) -> Tensor | list[Tensor]:
        skips = self.encoder(x)
        pairs = self._pairs(len(x), x.device)
        deep = self.decoder is not None and bool(self.decoder.deep_supervision)
        if self.inference == SUPERVISED:
            maps = self._decode_pairs(SUPERVISED, skips, pairs, every_resolution=deep)
        else:
            full = self._decode_pairs(PSEUDO, skips, pairs)[0]
            if self.inference == "mean":
                full = (full + self._decode_pairs(SUPERVISED, skips, pairs)[0]) / 2
            # Only sd has outputs of its own at coarser resolutions.
            maps = [full] + [_shrunk(full, s.shape[2:]) for s in skips[1:-1]] if deep else [full]
        outputs = [self._channels(m, pairs, len(x)) for m in maps]
        return outputs if deep else outputs[0]

    def _decode_pairs(
        self, name: str, skips: Sequence[Tensor], pairs: Asked, every_resolution: bool = False
    ) -> list[Tensor]:
        """``decode`` a few pairs at a time: each holds features of its own, and there may be many prompts."""
        size = max(1, _VOXELS_AT_ONCE // math.prod(skips[0].shape[2:]))
        parts = [
            self.decode(name, gather(skips, sample), prompt, every_resolution)
            for sample, prompt in zip(pairs.sample.split(size), pairs.prompt.split(size), strict=True)
        ]
        return [torch.cat(maps) for maps in zip(*parts, strict=True)]

    def _pairs(self, batch: int, device: torch.device) -> Asked:
        if isinstance(self._asked, Asked):
            return Asked(self._asked.sample.to(device), self._asked.prompt.to(device))
        asked = torch.arange(self.num_prompts) if self._asked is None else self._asked
        asked = asked.to(device)
        return Asked(torch.arange(batch, device=device).repeat_interleave(len(asked)), asked.repeat(batch))

    def _channels(self, log_odds: Tensor, pairs: Asked, batch: int) -> Tensor:
        """nnU-Net's channels (B, n_out, *spatial) from the maps of pairs (P, *spatial)."""
        shape = (batch, self.num_prompts, *log_odds.shape[1:])
        maps = log_odds.new_full(shape, NEVER).index_put((pairs.sample, pairs.prompt), log_odds)
        return torch.cat([torch.zeros_like(maps[:, :1]), maps], dim=1) if self.has_background else maps

    # Parts

    def decode(
        self, name: str, skips: Sequence[Tensor], prompt: Tensor, every_resolution: bool = False
    ) -> list[Tensor]:
        """One pass through a decoder.

        Args:
            name: ``sd`` or ``pd``.
            skips: the encoder's features of each pair, (P, channels, *spatial_s).
            prompt: prompt (P,) of each pair.
            every_resolution: the outputs of deep supervision too (sd only).

        Returns:
            Log-odds (P, *spatial), the full resolution first.
        """
        parts: Any = self.prompted["seg_layers"]
        decoder = self.decoder if name == SUPERVISED else parts[PSEUDO]
        layers = parts[f"layers_{name}"] if f"layers_{name}" in parts else []
        text = parts["prompts"](prompt) if len(layers) else None
        x, outputs = skips[-1], []
        for s, (upsample, stage) in enumerate(zip(decoder.transpconvs, decoder.stages, strict=True)):
            if s < len(layers):
                x = layers[s](x, text)
            x = stage(torch.cat([upsample(x), skips[-(s + 2)]], dim=1))
            if every_resolution and s < len(decoder.stages) - 1:
                outputs.append(decoder.seg_layers[s](x)[:, 0])
        return [decoder.seg_layers[-1](x)[:, 0], *outputs[::-1]]

    @property
    def bottleneck(self) -> Bottleneck:
        """The encoder's coarsest features."""
        dim = {nn.Conv2d: 2, nn.Conv3d: 3}[self.encoder.conv_op]
        strides = [_per_axis(s, dim) for s in self.encoder.strides]
        stride = tuple(math.prod(steps) for steps in zip(*strides, strict=True))
        return Bottleneck(int(self.encoder.output_channels[-1]), stride)


def build_propl_unet(
    planned: Callable[[], nn.Module],
    decoders: Sequence[str],
    prompts: PromptTokens | None,
    prompted_stages: int,
    text_tokens: Sequence[int],
    num_prompts: int,
    has_background: bool,
    inference: Inference = "pd",
) -> ProPLUNet:
    """Put the network together.

    Args:
        planned: makes nnU-Net's network with one output channel; called once for each decoder.
        decoders: ``sd``, ``pd`` or both.
        prompts: token vectors, ``None`` without prompting.
        prompted_stages: how many of the coarsest stages get a prompting layer.
        text_tokens: text tokens M of the stages, the coarsest first; the last number holds for all others.
        num_prompts: number K of prompts.
        has_background: whether the output has a background channel.
        inference: which decoder predicts.
    """
    networks: dict[str, Any] = {name: planned() for name in decoders}
    encoder = networks[decoders[0]].encoder
    channels = encoder.output_channels[::-1]
    built = {
        name: n.decoder if name == SUPERVISED else detached_decoder(n, deep_supervision=False)
        for name, n in networks.items()
    }
    layers: dict[str, list[nn.Module]] = {}
    if prompts is not None:
        _, sentence, width = prompts.tokens.shape
        count = [text_tokens[min(s, len(text_tokens) - 1)] for s in range(prompted_stages)]
        layers = {
            name: [PromptingUponDecoding(channels[s], sentence, width, m) for s, m in enumerate(count)]
            for name in decoders
        }
    return ProPLUNet(encoder, built, prompts, layers, num_prompts, has_background, inference)


def stages_to_prompt(patch_size: Sequence[int], strides: Sequence[int | Sequence[int]], limit: int) -> int:
    """How many of the coarsest stages have at most ``limit`` voxels; one at least, and never the finest.

    Attention costs the square of their number; the official code prompts 7x7, 14x14 and 28x28 voxels.
    """
    size, voxels = list(patch_size), []
    for stride in strides:
        size = [-(-s // t) for s, t in zip(size, _per_axis(stride, len(size)), strict=True)]
        voxels.append(math.prod(size))
    return max(1, sum(v <= limit for v in voxels[1:]))


def gather(skips: Sequence[Tensor], sample: Tensor | None) -> list[Tensor]:
    """Features of pairs from those of samples; not copied where ``sample`` is ``None`` (one prompt each)."""
    return list(skips) if sample is None else [s[sample] for s in skips]


def _per_axis(stride: int | Sequence[int], dim: int) -> list[int]:
    return [stride] * dim if isinstance(stride, int) else list(stride)


def _shrunk(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps[:, None], list(size), mode="area")[:, 0]


def _pass_over_missing_parts(module: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Drop the weights of a decoder that this network was built without; all else must fit."""
    absent = []
    if module.decoder is None:
        absent += ["decoder.", f"prompted.seg_layers.layers_{SUPERVISED}."]
    if PSEUDO not in module.prompted["seg_layers"]:
        absent += [f"prompted.seg_layers.{PSEUDO}.", f"prompted.seg_layers.layers_{PSEUDO}."]
    for key in [k for k in state if k.startswith(tuple(prefix + a for a in absent))]:
        del state[key]
