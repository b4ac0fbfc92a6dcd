"""The passes of ProPL through its network: which images under which prompts, and through which decoder.

Each ``..._pass(es)`` returns what ``network(images, run)`` runs within one call of the network.

Shapes: B samples, P pairs of a sample and one of its task's prompts, N perturbed passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_ssl.errors import TaskError
from nnunet_ssl.losses.uplc import mean_and_variance
from nnunet_ssl.nn.propl_unet import PSEUDO, SUPERVISED, ProPLUNet, gather
from nnunet_ssl.targets import LabelSpace, Pairs


class Passes(NamedTuple):
    """What one call of the network gives.

    Attributes:
        labeled: log-odds of sd on labelled pairs, the full resolution first.
        mean: mu of eq. 4 on unlabelled pairs, (P, *spatial), without gradient.
        variance: gamma of eq. 4.
        pseudo: log-odds of pd on unlabelled pairs.
    """

    labeled: list[Tensor]
    mean: Tensor
    variance: Tensor
    pseudo: Tensor


def own_pairs(space: LabelSpace, tasks: Tensor) -> Pairs:
    """Each sample under all prompts of its own task.

    Raises:
        TaskError: a sample has no task.
    """
    if (tasks < 0).any():
        raise TaskError(
            "ProPL needs the task of every image, but the batch holds one of unknown task. Let the case's "
            "identifier start with its task's prefix."
        )
    return space.own_pairs(tasks)


def supervised_pass(
    pairs: Pairs, noise: Tensor | None, every_resolution: bool
) -> Callable[[ProPLUNet, Tensor], list[Tensor]]:
    """Run sd on labelled images."""

    def run(network: ProPLUNet, images: Tensor) -> list[Tensor]:
        return _supervised_outputs(network, network.encoder(images), pairs, noise, every_resolution)

    return run


def unlabeled_passes(
    pairs: Pairs, perturbations: Tensor
) -> Callable[[ProPLUNet, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Run both decoders on unlabelled images: mu and gamma of sd, log-odds of pd."""

    def run(network: ProPLUNet, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _pseudo_outputs(network, network.encoder(images), pairs, perturbations)

    return run


def all_passes(
    pairs: Pairs,
    noise: Tensor | None,
    unlabeled_pairs: Pairs,
    perturbations: Tensor,
    every_resolution: bool,
) -> Callable[[ProPLUNet, Tensor], Passes]:
    """Run both on labelled and unlabelled images behind each other, which share one pass of the encoder."""

    def run(network: ProPLUNet, images: Tensor) -> Passes:
        skips, unlabeled = network.encoder(images), perturbations.shape[1]
        labeled = len(images) - unlabeled
        # The order matters in mixed precision: weights that are first cast without a graph stay without one
        # until autocast forgets them, so sd needs its pass with gradient before those without.
        outputs = _supervised_outputs(network, [s[:labeled] for s in skips], pairs, noise, every_resolution)
        pseudo = _pseudo_outputs(network, [s[labeled:] for s in skips], unlabeled_pairs, perturbations)
        return Passes(outputs, *pseudo)

    return run


def plain_passes(pairs: Pairs, decoders: Sequence[str]) -> Callable[[ProPLUNet, Tensor], list[Tensor]]:
    """Log-odds of each decoder without perturbation."""

    def run(network: ProPLUNet, images: Tensor) -> list[Tensor]:
        skips = gather(network.encoder(images), pairs.gathered)
        return [network.decode(name, skips, pairs.prompt)[0] for name in decoders]

    return run


def _supervised_outputs(
    network: ProPLUNet, skips: list[Tensor], pairs: Pairs, noise: Tensor | None, every_resolution: bool
) -> list[Tensor]:
    if noise is not None:
        skips = [*skips[:-1], skips[-1] * noise[0]]
    return network.decode(SUPERVISED, gather(skips, pairs.gathered), pairs.prompt, every_resolution)


def _pseudo_outputs(
    network: ProPLUNet, skips: list[Tensor], pairs: Pairs, perturbations: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    chosen = gather(skips, pairs.gathered)
    with torch.no_grad():
        perturbed = [gather([skips[-1] * factors], pairs.gathered)[0] for factors in perturbations.unbind()]
        predictions = [
            torch.sigmoid(network.decode(SUPERVISED, [*chosen[:-1], v], pairs.prompt)[0].float())
            for v in perturbed or [chosen[-1]]
        ]
        mean, variance = mean_and_variance(torch.stack(predictions))
    return mean, variance, network.decode(PSEUDO, chosen, pairs.prompt)[0]
