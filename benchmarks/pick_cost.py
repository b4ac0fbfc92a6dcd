"""Cost of one PICK training step, as a ratio to stock nnU-Net's on as many image patches.

    python benchmarks/pick_cost.py -o benchmarks/results/pick_cost.json

Every variant does forward, loss, backward and optimiser step on the same planned network with the same
patches, half of them labelled:

- stock: nnU-Net's network and loss on all patches;
- warmup: a step of PICK's warm-up, the labelled patches alone;
- pick: a full step; the pseudo-labels of the unlabelled patches are predicted without graph;
- joint: the same, all patches predicted in one batch with graph;
- six: the same terms written down straight from the paper, predict, rebuild and segment for the labelled
  patches and then again for the unlabelled ones: six batches, each with graph.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from unittest.mock import patch

import torch
from timing import (
    Step,
    compare_to_stock,
    images_and_targets,
    nnunet_loss,
    planned,
    stock_step,
    training_step,
)

from nnunet_ssl.losses.reconstruction import masked_l1
from nnunet_ssl.methods import pick
from nnunet_ssl.methods.base import Batch, total_loss
from nnunet_ssl.methods.pick import AUXILIARY, MIM, PICK, PICKConfig
from nnunet_ssl.nn.multi_decoder import MultiDecoderUNet, detached_decoder
from nnunet_ssl.targets import LabelSpace, Outputs
from nnunet_ssl.tasks import TaskTable

CLASSES = 3  # background included


def pick_step(args: argparse.Namespace, form: str) -> Step:
    """One step of PICK in one of its forms."""
    extras = {MIM: detached_decoder(planned(args.features, 1), deep_supervision=False)}
    extras[AUXILIARY] = detached_decoder(planned(args.features, CLASSES), deep_supervision=True)
    network = MultiDecoderUNet(planned(args.features, CLASSES), **extras).to(args.device)
    table = TaskTable({"background": 0} | {f"label{k}": k for k in range(1, CLASSES)})
    loss, generator = nnunet_loss(args), torch.Generator().manual_seed(0)
    method = PICK(PICKConfig(cutmix_probability=0.0), loss, loss.loss, LabelSpace(table), True)
    images, targets = images_and_targets(args.batch, args, CLASSES)
    unlabeled, _ = images_and_targets(args.batch, args, CLASSES)
    tasks = torch.zeros(args.batch, dtype=torch.long, device=args.device)
    batch, progress = Batch(images, targets, tasks, unlabeled), 0.0 if form == "warmup" else 1.0

    def losses() -> torch.Tensor:
        if form == "six":
            return six_batches(method, network, batch)
        if form == "joint":
            with patch.object(pick, "predict", predict_jointly):
                return total_loss(method.losses(network, batch, progress, generator))
        return total_loss(method.losses(network, batch, progress, generator))

    return training_step(network, losses)


def predict_jointly(
    parts: MultiDecoderUNet, images: torch.Tensor, count: int, space: LabelSpace
) -> tuple[Outputs, torch.Tensor]:
    """The first link as one batch: the unlabelled predictions have a graph that nothing needs."""
    outputs = parts.decoder(parts.encoder(images))
    return [o[:count] for o in outputs], space.hard(outputs[0])


def six_batches(method: PICK, network: MultiDecoderUNet, batch: Batch) -> torch.Tensor:
    """PICK's terms, each half of the batch on its own."""
    config, total = method.config, torch.zeros((), device=batch.labeled.device)
    for images, targets in ((batch.labeled, batch.targets), (batch.unlabeled, None)):
        assert images is not None
        outputs = network(images)
        pseudo = method.space.hard(outputs[0])
        hidden = method.space.foreground(pseudo)[:, None]
        rebuilt = network(images * ~hidden, lambda parts, x: parts.extra(MIM)(parts.encoder(x)))
        seen = torch.where(hidden, rebuilt, images).detach()
        segmented = network(seen, lambda parts, x: parts.extra(AUXILIARY)(parts.encoder(x)))
        total = total + config.weight_mim * masked_l1(rebuilt, images, hidden)
        if targets is None:
            total = total + method.full_loss(segmented[0], pseudo)
        else:
            total = total + method.loss(segmented, targets) + method.loss(outputs, targets)
    return total


def variants(args: argparse.Namespace) -> dict[str, Callable[[], Step]]:
    """Every variant by name."""
    made: dict[str, Callable[[], Step]] = {"stock": lambda: stock_step(args, 2 * args.batch, CLASSES)}
    for form in ("warmup", "pick", "joint", "six"):
        made[form] = lambda form=form: pick_step(args, form)
    return made


if __name__ == "__main__":
    compare_to_stock(__doc__, variants)
