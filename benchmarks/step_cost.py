"""Cost of one VerSemi training step, as a ratio to stock nnU-Net's on as many image patches.

    python benchmarks/step_cost.py -o benchmarks/results/step_cost.json

Every variant does forward, loss, backward and optimiser step on the same planned network with the same
patches:

- stock: nnU-Net's network and loss on N patches;
- versemi: one step on N patches (a third each labelled, labelled mixes, unlabelled mixes), one pass;
- plain: the same terms with one full pass through the network per prompt.

Times: variants take turns, round by round, and the ratio is taken within a round; quoted is the median over
rounds.
Memory: peak of each variant in a process of its own, less what the process held before the step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn
from tqdm import tqdm

from nnunet_ssl.masks import mix, resize_masks, sample_masks
from nnunet_ssl.methods.base import Batch, total_loss
from nnunet_ssl.methods.versemi import VerSemi, VerSemiConfig, partners
from nnunet_ssl.nn.dynamic_head import HEAD_WIDTH, FilterController, prompt_vectors, prompted_log_odds
from nnunet_ssl.nn.prompted_unet import Prompted, PromptedUNet
from nnunet_ssl.tables import format_table
from nnunet_ssl.targets import LabelSpace
from nnunet_ssl.tasks import TaskTable

PROMPTS = (1, 4, 8)
Step = Callable[[], None]


def planned(features: list[int], num_classes: int) -> nn.Module:
    """The network that nnU-Net would plan: two convolutions per stage, instance norm, deep supervision."""
    stages = len(features)
    network = PlainConvUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=features,
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_conv_per_stage=2,
        num_classes=num_classes,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    network.apply(InitWeights_He(1e-2))
    return network


def scale_weights(num_scales: int) -> np.ndarray:
    """nnU-Net's deep supervision weights."""
    weights = np.array([1 / 2**i for i in range(num_scales)])
    weights[-1] = 0
    return weights / weights.sum()


def images_and_targets(count: int, args: argparse.Namespace, num_classes: int) -> tuple[torch.Tensor, list]:
    """Random patches with label maps at every resolution."""
    images = torch.randn(count, 1, *args.patch)
    targets = []
    for scale in range(len(args.features) - 1):
        shape = [s // 2**scale for s in args.patch]
        targets.append(torch.randint(0, num_classes, (count, 1, *shape), dtype=torch.int16))
    return images.to(args.device), [t.to(args.device) for t in targets]


def stock_step(args: argparse.Namespace, prompts: int) -> Step:
    """One step of nnU-Net on all patches at once."""
    network = planned(args.features, prompts + 1).to(args.device)
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    wrapped = DeepSupervisionWrapper(loss, scale_weights(len(args.features) - 1))
    images, targets = images_and_targets(3 * args.batch, args, prompts + 1)
    return _step(network, lambda: wrapped(network(images), targets))


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
        return _step(network, lambda: plain_losses(method, network, batch, generator, prompts))
    return _step(network, lambda: total_loss(method.losses(network, batch, 1.0, generator)))


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

    pairs = method._own_prompts(batch.tasks)
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


def _step(network: nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        if next(network.parameters()).is_cuda:
            torch.cuda.synchronize()

    return step


def variants(args: argparse.Namespace) -> dict[str, Callable[[], Step]]:
    """Every variant by name."""
    made: dict[str, Callable[[], Step]] = {}
    for k in PROMPTS:
        made[f"stock K={k}"] = lambda k=k: stock_step(args, k)
        made[f"versemi K={k}"] = lambda k=k: versemi_step(args, k)
    made["plain K=4"] = lambda: versemi_step(args, 4, plain=True)
    return made


def times(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each round; variants take turns within a round."""
    steps = {name: make() for name, make in variants(args).items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in tqdm(range(args.rounds), desc="rounds"):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(args: argparse.Namespace, name: str, queue: multiprocessing.Queue) -> None:
    """Put the peak memory of two steps, in MiB, into the queue; runs in a process of its own."""
    torch.set_num_threads(args.threads)
    step = variants(args)[name]()
    if args.device == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        queue.put(torch.cuda.max_memory_allocated() / 2**20)
        return
    before = _resident()
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    step()
    done.set()
    watcher.join()
    queue.put(peak - before)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def memory(args: argparse.Namespace) -> dict[str, float]:
    """Peak memory of each variant in MiB."""
    context, peaks = multiprocessing.get_context("spawn"), {}
    for name in tqdm(variants(args), desc="memory"):
        queue = context.Queue()
        process = context.Process(target=peak_memory, args=(args, name, queue))
        process.start()
        peaks[name] = queue.get()
        process.join()
    return peaks


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--patch", type=int, nargs="+", default=[24, 40, 48])
    parser.add_argument(
        "--batch", type=int, default=2, help="labelled patches; a step takes three times as many"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seconds, peaks = times(args), memory(args)
    reference = {name: f"stock {name.split()[1]}" for name in seconds}
    ratio = {
        n: statistics.median(a / b for a, b in zip(s, seconds[reference[n]], strict=True))
        for n, s in seconds.items()
    }
    rows = [
        [
            n,
            f"{statistics.median(s):.3f}",
            f"{ratio[n]:.2f}",
            f"{peaks[n]:.0f}",
            f"{peaks[n] / peaks[reference[n]]:.2f}",
        ]
        for n, s in seconds.items()
    ]
    print(format_table(rows, ["step", "median s", "x stock", "peak MiB", "x stock"]))
    if args.o:
        device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU ({platform.machine()})"
        settings = {k: v for k, v in vars(args).items() if k != "o"} | {
            "device": device,
            "torch": torch.__version__,
        }
        args.o.parent.mkdir(parents=True, exist_ok=True)
        args.o.write_text(json.dumps({"settings": settings, "seconds": seconds, "peak_MiB": peaks}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
