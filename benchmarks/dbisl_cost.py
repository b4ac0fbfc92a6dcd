"""Cost of one DBiSL training step, as a ratio to stock nnU-Net's on as many image patches.

    python benchmarks/dbisl_cost.py --features 12 24 48 96 --rounds 4 -o benchmarks/results/dbisl_cost.json

Every variant does forward, loss, backward and optimiser step on the same planned network with the same
patches, half of them labelled:

- stock: nnU-Net's network and loss on all patches;
- dbisl: all terms, T_s2r by the exact transform;
- free: the same, T_s2r replaced by 2 Y - 1, which costs next to nothing: what is missing to ``dbisl`` is the
  share of the transforms;
- convolution: all terms, the paper's transform at half the resolution (its setting);
- one_decoder: without the second decoder;
- labels_5, labels_13: all terms with as many labels, against stock with as many (stock_5, stock_13). A patch
  holds every label here, so every map is transformed: the worst case.

A network that starts sees noise, whose distances are all short. The transforms get soft ellipsoids in the
place of predictions and labels, with the gradient passed through.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from distance_transform import ellipsoids
from timing import (
    Step,
    arguments,
    images_and_targets,
    measure,
    nnunet_loss,
    planned,
    stock_step,
    training_step,
)

from nnunet_ssl.methods import dual_task
from nnunet_ssl.methods.base import Batch, total_loss
from nnunet_ssl.methods.dbisl import DBiSL, DBiSLConfig
from nnunet_ssl.nn.task_decoders import branched_network, interpolating_decoder
from nnunet_ssl.targets import LabelSpace
from nnunet_ssl.tasks import TaskTable

MANY = (5, 13)  # labels
OPTIONS: dict[str, dict[str, Any]] = {
    "dbisl": {},
    "free": {},
    "convolution": {"distance_form": "convolution", "distance_scale": 0.5},
    "one_decoder": {"second_decoder": False},
}


def dbisl_step(args: argparse.Namespace, form: str, maps: int = 1) -> Step:
    """One step of DBiSL in one of its forms, with as many labels as maps."""
    config, classes = DBiSLConfig(**OPTIONS[form]), 1 + maps
    second = interpolating_decoder(planned(args.features, classes), True) if config.second_decoder else None
    network = branched_network(planned(args.features, classes), second, maps, False, True).to(args.device)
    space = LabelSpace(TaskTable({"background": 0} | {f"label{k}": k for k in range(1, classes)}))
    method = DBiSL(config, nnunet_loss(args), space, True, (1.0,) * len(args.patch))
    images, targets = images_and_targets(args.batch, args, classes)
    unlabeled, _ = images_and_targets(args.batch, args, classes)
    tasks = torch.zeros(args.batch, dtype=torch.long, device=args.device)
    batch, generator = Batch(images, targets, tasks, unlabeled), torch.Generator()
    branches = 1 + int(config.second_decoder)
    shapes = ellipsoids(maps * args.batch * (1 + 2 * branches), tuple(args.patch))
    shapes = shapes.view(-1, maps, *args.patch).to(args.device)
    real = dual_task.seg_to_distance

    def transform(y: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        shaped = y - y.detach() + shapes
        return 2 * shaped - 1 if form == "free" else real(shaped, *rest, **options)

    def losses() -> torch.Tensor:
        with patch.object(dual_task, "seg_to_distance", transform):
            return total_loss(method.losses(network, batch, 1.0, generator))

    return training_step(network, losses)


def variants(args: argparse.Namespace) -> dict[str, Callable[[], Step]]:
    """Every variant by name."""
    made: dict[str, Callable[[], Step]] = {"stock": lambda: stock_step(args, 2 * args.batch, 2)}
    for form in OPTIONS:
        made[form] = lambda form=form: dbisl_step(args, form)
    for count in MANY:
        made[f"stock_{count}"] = lambda count=count: stock_step(args, 2 * args.batch, 1 + count)
        made[f"labels_{count}"] = lambda count=count: dbisl_step(args, "dbisl", count)
    return made


if __name__ == "__main__":
    own = {name: f"stock_{count}" for count in MANY for name in (f"stock_{count}", f"labels_{count}")}
    measure(variants, dict.fromkeys(["stock", *OPTIONS], "stock") | own, arguments(__doc__).parse_args())
