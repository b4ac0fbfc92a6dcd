"""Cost of one VerSemi training step, as a ratio to stock nnU-Net's on as many image patches.

    python benchmarks/step_cost.py -o benchmarks/results/step_cost.json

Every variant does forward, loss, backward and optimiser step on the same planned network with the same
patches:

- stock: nnU-Net's network and loss on N patches;
- versemi: one step on N patches (a third each labelled, labelled mixes, unlabelled mixes), one pass;
- plain: the same terms with one full pass through the network per prompt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from timing import (
    Step,
    arguments,
    images_and_targets,
    measure,
    planned,
    scale_weights,
    stock_step,
    training_step,
)
from torch import nn

from nnunet_ssl.masks import mix, resize_masks, sample_masks
from nnunet_ssl.methods.base import Batch, total_loss
from nnunet_ssl.methods.versemi import VerSemi, VerSemiConfig, partners
from nnunet_ssl.nn.dynamic_head import HEAD_WIDTH, FilterController, prompt_vectors, prompted_log_odds
from nnunet_ssl.nn.prompted_unet import Prompted, PromptedUNet
from nnunet_ssl.targets import LabelSpace
from nnunet_ssl.tasks import TaskTable

PROMPTS = (1, 4, 8)


def versemi_step(args: argparse.Namespace, prompts: int, plain: bool = False) -> Step:
    """One step of VerSemi: our form, or one full pass per prompt."""
    table = TaskTable({"background": 0} | {f"label{k}": k for k in range(1, prompts + 1)})
    unet = planned(args.features, HEAD_WIDTH)
    controller = FilterController(args.features[-1], prompt_vectors("one_hot", prompts + 1, None))
    network = PromptedUNet(unet, controller, has_background=True).to(args.device)
    method = VerSemi(VerSemiConfig(), LabelSpace(table), scale_weights(len(args.features) - 1))
    images, targets = images_and_targets(args.batch, args, prompts + 1)
    unlabeled, _ = images_and_targets(args.batch, args, prompts + 1)
    tasks = torch.zeros(args.batch, dtype=torch.long, device=args.device)
    batch = Batch(images, targets, tasks, unlabeled)
    generator = torch.Generator().manual_seed(0)
    if plain:
        return training_step(network, lambda: plain_losses(method, network, batch, generator, prompts))
    return training_step(network, lambda: total_loss(method.losses(network, batch, 1.0, generator)))


def plain_losses(
    method: VerSemi, network: nn.Module, batch: Batch, generator: torch.Generator, prompts: int
) -> torch.Tensor:
    """VerSemi's terms where each prompt takes a pass of its own, as a network with a prompt input would."""
    shape, count = batch.labeled.shape[2:], len(batch.labeled)
    partner = partners(batch.tasks)
    masks = [
        sample_masks("box", count, shape, (0.3, 0.7), generator).to(batch.labeled.device) for _ in range(2)
    ]
    mixed = mix(batch.labeled, batch.labeled[partner], masks[0])
    mixed_targets = [mix(t, t[partner], resize_masks(masks[0], t.shape[2:])) for t in batch.targets]
    assert batch.unlabeled is not None
    unlabeled = mix(batch.unlabeled, batch.unlabeled.flip(0), masks[1])

    def one_prompt(images: torch.Tensor, prompt: int) -> Prompted:
        output = network(images, prompted=True)
        # shaped as if the network had this prompt and the synthetic one only
        return Prompted(output.features, output.filters[:, [prompt, -1]])

    pairs = method.space.own_pairs(batch.tasks)
    loss = torch.zeros((), device=batch.labeled.device)
    for images, targets in ((batch.labeled, batch.targets), (mixed, mixed_targets)):
        for k in range(prompts):
            asked = pairs.prompt == k
            own = type(pairs)(*(p[asked] for p in pairs))
            output = network(images, prompted=True)
            loss = loss + method._dice_ce(output, targets, own)
    loss = loss + method._synthetic(network(mixed, prompted=True), mixed_targets)
    probability = []
    for k in [*range(prompts), -1]:
        output = one_prompt(unlabeled, k)
        probability.append(torch.sigmoid(prompted_log_odds(output.features[0], output.filters[:, :1])[:, 0]))
    aggregated = torch.stack(probability[:-1]).amax(0)
    return loss + (1 - 2 * (aggregated * probability[-1]).sum() / (aggregated + probability[-1]).sum())


def variants(args: argparse.Namespace) -> dict[str, Callable[[], Step]]:
    """Every variant by name."""
    made: dict[str, Callable[[], Step]] = {}
    for k in PROMPTS:
        made[f"stock K={k}"] = lambda k=k: stock_step(args, 3 * args.batch, k + 1)
        made[f"versemi K={k}"] = lambda k=k: versemi_step(args, k)
    made["plain K=4"] = lambda: versemi_step(args, 4, plain=True)
    return made


def main() -> None:
    """Measure, print the table, write the JSON."""
    args = arguments(__doc__).parse_args()
    measure(variants, {name: f"stock {name.split()[1]}" for name in variants(args)}, args)


if __name__ == "__main__":
    sys.exit(main())
