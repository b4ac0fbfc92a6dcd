"""Cost of one ProPL training step, as a ratio to stock nnU-Net's on as many images.

    python benchmarks/propl_cost.py -o benchmarks/results/propl_cost.json

Every variant does forward, loss, backward and optimiser step on the same planned 2D network with the same
images:

- stock: nnU-Net's network and loss on N images;
- propl N=0, 2, 4: half of them labelled, half unlabelled, with N perturbed passes (0: sd's plain prediction);
- K=2: two prompts for each image, so every decoder pass takes twice as many maps.
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

from nnunet_ssl.methods.base import Batch, total_loss
from nnunet_ssl.methods.propl import ProPL, ProPLConfig
from nnunet_ssl.nn.prompting import PromptTokens
from nnunet_ssl.nn.propl_unet import build_propl_unet, stages_to_prompt
from nnunet_ssl.targets import LabelSpace
from nnunet_ssl.tasks import TaskTable

PASSES = (0, 2, 4)
TOKENS, WIDTH = 24, 768  # BERT's, as in the paper


def propl_step(args: argparse.Namespace, labels: int, passes: int) -> Step:
    """One step of ProPL."""
    table = TaskTable({"background": 0} | {f"label{k}": k for k in range(1, labels + 1)})
    strides = [1] + [2] * (len(args.features) - 1)
    config = ProPLConfig(perturbations=passes)
    network = build_propl_unet(
        lambda: planned(args.features, 1, len(args.patch)),
        config.decoders,
        PromptTokens(torch.randn(labels, TOKENS, WIDTH)),
        stages_to_prompt(args.patch, strides, config.prompted_voxels),
        config.stage_text_tokens,
        labels,
        has_background=True,
    ).to(args.device)
    method = ProPL(config, LabelSpace(table), scale_weights(len(args.features) - 1), network.bottleneck)
    images, targets = images_and_targets(args.batch, args, labels + 1)
    unlabeled, _ = images_and_targets(args.batch, args, labels + 1)
    tasks = torch.zeros(args.batch, dtype=torch.long, device=args.device)
    batch, generator = Batch(images, targets, tasks, unlabeled, tasks), torch.Generator().manual_seed(0)
    return training_step(network, lambda: total_loss(method.losses(network, batch, 1.0, generator)))


def variants(args: argparse.Namespace) -> dict[str, Callable[[], Step]]:
    """Every variant by name; the last part of a name says which stock step it is compared with."""
    made: dict[str, Callable[[], Step]] = {}
    for labels in (1, 2):
        made[f"stock K={labels}"] = lambda k=labels: stock_step(args, 2 * args.batch, k + 1)
        for passes in PASSES if labels == 1 else (2,):
            made[f"propl N={passes} K={labels}"] = lambda k=labels, n=passes: propl_step(args, k, n)
    return made


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = arguments(__doc__)
    parser.set_defaults(features=[32, 64, 128, 256, 512, 512, 512], patch=[256, 256])
    args = parser.parse_args()
    measure(variants, {name: f"stock {name.split()[-1]}" for name in variants(args)}, args)


if __name__ == "__main__":
    sys.exit(main())
