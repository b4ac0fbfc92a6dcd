"""Time and peak memory of training steps, as ratios to another step's: what the cost benchmarks share.

Times: variants take turns, round by round, and the ratio is taken within a round; quoted is the median over
rounds. On the CPU with one thread it is CPU time, which other work on the machine lengthens less.
Memory: peak of each variant in a process of its own, less what the process held before the step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import threading
import time
from collections.abc import Callable, Mapping
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

from nnunet_ssl.tables import format_table

Step = Callable[[], None]
Variants = Callable[[argparse.Namespace], dict[str, Callable[[], Step]]]


# What steps are made of


def planned(features: list[int], num_classes: int, dim: int = 3) -> nn.Module:
    """The network that nnU-Net would plan: two convolutions per stage, instance norm, deep supervision."""
    stages = len(features)
    network = PlainConvUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=features,
        conv_op=nn.Conv2d if dim == 2 else nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_conv_per_stage=2,
        num_classes=num_classes,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if dim == 2 else nn.InstanceNorm3d,
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


def nnunet_loss(args: argparse.Namespace) -> DeepSupervisionWrapper:
    """nnU-Net's loss for classes."""
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    return DeepSupervisionWrapper(loss, scale_weights(len(args.features) - 1))


def images_and_targets(count: int, args: argparse.Namespace, num_classes: int) -> tuple[torch.Tensor, list]:
    """Random patches with label maps at every resolution."""
    images = torch.randn(count, 1, *args.patch)
    targets = []
    for scale in range(len(args.features) - 1):
        shape = [s // 2**scale for s in args.patch]
        targets.append(torch.randint(0, num_classes, (count, 1, *shape), dtype=torch.int16))
    return images.to(args.device), [t.to(args.device) for t in targets]


def stock_step(args: argparse.Namespace, count: int, num_classes: int) -> Step:
    """One step of nnU-Net on ``count`` patches at once."""
    network = planned(args.features, num_classes, len(args.patch)).to(args.device)
    loss = nnunet_loss(args)
    images, targets = images_and_targets(count, args, num_classes)
    return training_step(network, lambda: loss(network(images), targets))


def training_step(network: nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    """Loss, backward and nnU-Net's optimiser step."""
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        if next(network.parameters()).is_cuda:
            torch.cuda.synchronize()

    return step


# Measuring


def times(variants: Variants, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each round; variants take turns within a round."""
    steps = {name: make() for name, make in variants(args).items()}
    clock = time.process_time if args.device == "cpu" and args.threads == 1 else time.perf_counter
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in tqdm(range(args.rounds), desc="rounds"):
        for name, step in steps.items():
            start = clock()
            step()
            seconds[name].append(clock() - start)
    return seconds


def memory(variants: Variants, args: argparse.Namespace) -> dict[str, float]:
    """Peak memory of each variant in MiB."""
    context, peaks = multiprocessing.get_context("spawn"), {}
    for name in tqdm(variants(args), desc="memory"):
        queue = context.Queue()
        process = context.Process(target=_put_peak_memory, args=(variants, args, name, queue))
        process.start()
        peaks[name] = queue.get()
        process.join()
    return peaks


def _put_peak_memory(
    variants: Variants, args: argparse.Namespace, name: str, queue: multiprocessing.Queue
) -> None:
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


# Command line


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every cost benchmark takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--patch", type=int, nargs="+", default=[24, 40, 48])
    parser.add_argument("--batch", type=int, default=2, help="labelled patches")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", type=Path, help="JSON file to write")
    return parser


def measure(variants: Variants, reference: Mapping[str, str], args: argparse.Namespace) -> None:
    """Measure all variants, print the table, write the JSON.

    Args:
        variants: makes the steps; a function of a module, because other processes import it.
        reference: name of the variant that each one's ratio is taken to.
        args: what ``arguments`` parsed.
    """
    torch.set_num_threads(args.threads)
    seconds, peaks = times(variants, args), memory(variants, args)
    rows = []
    for name, mine in seconds.items():
        other = reference[name]
        ratio = statistics.median(a / b for a, b in zip(mine, seconds[other], strict=True))
        row = [statistics.median(mine), ratio, peaks[name], peaks[name] / peaks[other]]
        rows.append([name, *(f"{v:.{n}f}" for v, n in zip(row, (3, 2, 0, 2), strict=True))])
    print(format_table(rows, ["step", "median s", "x stock", "peak MiB", "x stock"]))
    if args.o:
        device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU ({platform.machine()})"
        settings = {k: v for k, v in vars(args).items() if k != "o"} | {
            "device": device,
            "torch": torch.__version__,
        }
        args.o.parent.mkdir(parents=True, exist_ok=True)
        args.o.write_text(json.dumps({"settings": settings, "seconds": seconds, "peak_MiB": peaks}, indent=1))


def compare_to_stock(description: str | None, variants: Variants) -> None:
    """Command line of a benchmark whose variants are all compared with the one called ``stock``."""
    args = arguments(description).parse_args()
    measure(variants, dict.fromkeys(variants(args), "stock"), args)
