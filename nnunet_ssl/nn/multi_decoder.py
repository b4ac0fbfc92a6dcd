"""nnU-Net's planned network with further decoders, or other parts, that only training needs.

The planned network keeps its own names (``encoder``, ``decoder``), and everything else lies under
``training_only``. So a checkpoint without the keys that begin with ``training_only.`` is stock nnU-Net's. (A
subclass may predict with one of those parts as well; ``for_inference`` keeps what a network has.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

TRAINING_ONLY = "training_only"
Result = TypeVar("Result")


class MultiDecoderUNet(nn.Module):
    """One encoder, the planned decoder, and parts for training.

    ``network(x)`` is inference and costs what the planned network costs. ``network(x, run)`` returns
    ``run(network, x)``: a method's passes through encoder and decoders, several in a chain perhaps, happen
    inside one call of the network, which is what distributed training wants.

    Args:
        planned: nnU-Net's network; its encoder and decoder are taken over.
        training_only: named parts that inference does not use.
    """

    def __init__(self, planned: nn.Module, **training_only: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = planned.encoder
        self.decoder: Any = planned.decoder
        # Under the name "seg_layers" because nnU-Net's -pretrained_weights does not ask for what bears it: so
        # weights of a stock nnU-Net can start this network.
        self.training_only = nn.ModuleDict({"seg_layers": nn.ModuleDict(training_only)})

    def extra(self, name: str) -> Any:
        """The part of training called ``name``."""
        parts: Any = self.training_only["seg_layers"]
        return parts[name]

    def forward(
        self, x: Tensor, run: Callable[[MultiDecoderUNet, Tensor], Result] | None = None
    ) -> Tensor | list[Tensor] | Result:
        """Logits (a list of resolutions with deep supervision), or what ``run`` returns."""
        return self.predict(x) if run is None else run(self, x)

    def predict(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the planned decoder."""
        outputs: Tensor | list[Tensor] = self.decoder(self.encoder(x))
        return outputs


def detached_decoder(planned: nn.Module, deep_supervision: bool) -> Any:
    """The decoder of a planned network, without the network's encoder.

    nnU-Net's decoder registers the encoder as a submodule; a second decoder must not, or the encoder's
    weights would be stored twice. Without deep supervision only the layer of the full resolution is kept,
    since parameters that get no gradient stop distributed training.
    """
    decoder: Any = planned.decoder
    del decoder.encoder
    decoder.deep_supervision = deep_supervision
    if not deep_supervision:
        decoder.seg_layers = nn.ModuleList([decoder.seg_layers[-1]])
    return decoder


def for_inference(network: nn.Module) -> nn.Module:
    """Let a network load weights without those of ``training_only`` that it lacks.

    So prediction neither holds nor moves what only training needs.
    """

    def drop_unused(module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        own = {f"{prefix}{name}" for name in module.state_dict()}
        for key in [k for k in state_dict if k.startswith(f"{prefix}{TRAINING_ONLY}.") and k not in own]:
            del state_dict[key]

    network.register_load_state_dict_pre_hook(drop_unused)
    return network
