"""T_s2r of DBiSL: cost against the same built from kornia's distance transform, and what it keeps of labels.

    pip install kornia
    python benchmarks/distance_transform.py cost -o benchmarks/results/distance_transform.json
    python benchmarks/distance_transform.py labels --raw NNUNET_RAW -o benchmarks/results/distance_labels.json
    python benchmarks/distance_transform.py descent -o benchmarks/results/distance_descent.json

``cost``: seconds per sample of one forward and backward pass, and the mean difference of R to SciPy's exact
transform; soft ellipsoids, one map each. The graph of a front that is carried by convolutions keeps every
round, too much memory for a batch of large maps: kornia and our convolution take the first sample alone.

``labels``: Table 7 of the paper. A mask is turned into R and back (R > 0); Dice of the two, seconds a case,
and the largest difference of R to SciPy's. "all at 0.5": small targets, too, which our rule exempts.

``descent``: which form teaches. Logits of 32x32 are moved by the MSE between T_s2r and that of a disc, alone
(Adam, 0.1 falling to 0); Dice with the disc after 50 and 150 steps, and seconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from tqdm import tqdm

from nnunet_ssl.distance import seg_to_distance, transforms
from nnunet_ssl.tables import format_table

Transform = Callable[[torch.Tensor], torch.Tensor]
SIZES = {"64": (64, 64, 64), "96": (96, 96, 96), "112": (112, 112, 80)}


def ellipsoids(count: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Soft ellipsoids, semi-axes of a sixth to a third of the shape: (count, 1, *shape)."""
    draw = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij"))
    maps = []
    for _ in range(count):
        centre = 0.4 * torch.rand(3, generator=draw).view(3, 1, 1, 1) - 0.2
        axes = 1 / 3 + torch.rand(3, generator=draw).view(3, 1, 1, 1) / 3
        radius = ((grid - centre) / axes).square().sum(0).sqrt()
        maps.append(torch.sigmoid(20 * (1 - radius)))
    return torch.stack(maps)[:, None]


def scipy_distance(mask: np.ndarray, spacing: tuple[float, ...] | None = None) -> np.ndarray:
    """R of one mask by SciPy."""
    inner, outer = (ndimage.distance_transform_edt(m, sampling=spacing) for m in (mask, ~mask))
    return inner / max(inner.max(), 1e-6) - outer / max(outer.max(), 1e-6)


# Cost


class Threshold(torch.autograd.Function):
    """Straight-through, as in our own transform: soft values are no seeds."""

    @staticmethod
    def forward(ctx: object, prob: torch.Tensor) -> torch.Tensor:
        """Hard mask."""
        return (prob > 0.5).to(prob.dtype)

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        """As it comes."""
        return gradient


def kornia_transform() -> Transform:
    """The paper's eqs. 3 and 4 on kornia's transform."""
    from kornia.contrib import distance_transform

    def transform(prob: torch.Tensor) -> torch.Tensor:
        mask = Threshold.apply(prob)
        sides = [distance_transform(m, kernel_size=3, h=0.35) for m in (1 - mask, mask)]
        inner, outer = (s / s.detach().amax((2, 3, 4), keepdim=True).clamp(min=1e-6) for s in sides)
        return inner - outer

    return transform


def seconds_and_error(transform: Transform, prob: torch.Tensor, rounds: int) -> tuple[float, float]:
    """Median seconds per sample of forward and backward, and mean |R - SciPy's R|."""
    weights, seconds = torch.randn(prob.shape, generator=torch.Generator().manual_seed(1)), []
    for _ in range(rounds):
        leaf = prob.clone().requires_grad_()
        start = time.process_time()
        signed = transform(leaf)
        (signed * weights).sum().backward()
        seconds.append((time.process_time() - start) / len(prob))
    exact = np.stack([scipy_distance(p[0].numpy() > 0.5) for p in prob])
    return statistics.median(seconds), float(np.abs(signed.detach()[:, 0].numpy() - exact).mean())


def cost(args: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of the cost table."""
    rows: list[dict[str, object]] = []
    for shape in tqdm([SIZES[name] for name in args.sizes], desc="sizes"):
        prob = ellipsoids(args.batch, shape)
        forms: dict[str, tuple[Transform, torch.Tensor, int]] = {
            "exact": (seg_to_distance, prob, 5),
            "convolution": (lambda p: seg_to_distance(p, form="convolution"), prob[:1], 1),
            "kornia": (kornia_transform(), prob[:1], 1),
        }
        measured = {name: seconds_and_error(*form) for name, form in forms.items()}
        for name, (seconds, error) in measured.items():
            times = measured["kornia"][0] / seconds
            rows.append(
                {
                    "size": "x".join(map(str, shape)),
                    "form": name,
                    "s a sample": seconds,
                    "x faster than kornia": times,
                    "mean error of R": error,
                }
            )
    return rows


# Real labels


def masks_of(file: Path) -> tuple[torch.Tensor, tuple[float, ...]]:
    """(1, C, *spatial) of a label file's values, and its spacing."""
    image = sitk.ReadImage(str(file))
    array = torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.int16))
    values = [v for v in array.unique().tolist() if v]
    return torch.stack([array == v for v in values])[None].float(), image.GetSpacing()[::-1]


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    """Dice of two masks in percent."""
    return float(200 * (a & b).sum() / (a.sum() + b.sum()))


def at_half(masks: torch.Tensor, spacing: tuple[float, ...], rule: bool) -> torch.Tensor:
    """R through half the resolution; without the rule whatever becomes of small targets."""
    with patch.object(transforms, "LEAST_KEPT", transforms.LEAST_KEPT if rule else -1.0):
        return seg_to_distance(masks, 0.5, spacing=spacing)


def labels_of(folder: Path, count: int) -> list[dict[str, object]]:
    """Rows of one dataset."""
    forms: dict[str, Callable[[torch.Tensor, tuple[float, ...]], torch.Tensor]] = {
        "SciPy": lambda m, s: torch.from_numpy(np.stack([scipy_distance(c.numpy() > 0, s) for c in m[0]]))[
            None
        ],
        "exact": lambda m, s: seg_to_distance(m, spacing=s),
        "exact, 0.5": lambda m, s: at_half(m, s, rule=True),
        "exact, all at 0.5": lambda m, s: at_half(m, s, rule=False),
        "convolution": lambda m, s: seg_to_distance(m, form="convolution"),
    }
    kept: dict[str, list[float]] = {name: [] for name in forms}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    difference = dict.fromkeys(forms, 0.0)
    for file in tqdm(sorted((folder / "labelsTr").iterdir())[:count], desc=folder.name):
        masks, spacing = masks_of(file)
        results = {}
        for name, form in forms.items():
            start = time.process_time()
            results[name] = form(masks, spacing)
            seconds[name].append(time.process_time() - start)
            back = results[name] > 0
            kept[name] += [dice(back[0, c], masks[0, c] > 0) for c in range(masks.shape[1])]
            largest = (results[name].double() - results["SciPy"]).abs().max()
            difference[name] = max(difference[name], float(largest))
    return [
        {
            "dataset": folder.name,
            "form": name,
            "maps": len(kept[name]),
            "mean Dice": statistics.mean(kept[name]),
            "lowest": min(kept[name]),
            "s a case": statistics.mean(seconds[name]),
            "largest difference": difference[name],
        }
        for name in forms
    ]


# Descent


def disc(radius: float, centre: float = 16.0) -> torch.Tensor:
    """(1, 1, 32, 32), 1 inside."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    return ((y - centre).square() + (x - centre).square() <= radius**2).float()[None, None]


def descend(transform: Transform, start: torch.Tensor, steps: int) -> tuple[float, float]:
    """Dice in percent with the disc, and seconds."""
    goal, draw = disc(9.0), torch.Generator().manual_seed(1)
    logits = (4 * start - 2 + 0.1 * torch.randn(start.shape, generator=draw)).requires_grad_()
    optimizer, target = torch.optim.Adam([logits], 0.1), transform(goal)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    begin = time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        (transform(torch.sigmoid(logits)) - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    return dice(logits.detach() > 0, goal > 0), time.process_time() - begin


def descent(args: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of the table of descents."""
    noise = (torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    starts = {
        "empty": torch.zeros(1, 1, 32, 32),
        "small": disc(4.0),
        "large": disc(13.5),
        "shifted": disc(8.0, 12.0),
        "noise": noise,
    }
    forms: dict[str, Transform] = {
        "exact": seg_to_distance,
        "convolution": lambda p: seg_to_distance(p, form="convolution"),
    }
    rows: list[dict[str, object]] = []
    for start, first in starts.items():
        for form, transform in forms.items():
            (early, _), (late, seconds) = (descend(transform, first, steps) for steps in (50, 150))
            row = {"start": start, "form": form, "Dice, 50": early, "Dice, 150": late, "s, 150": seconds}
            rows.append(row)
    return rows


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    one, two, three = (commands.add_parser(name) for name in ("cost", "labels", "descent"))
    one.add_argument("--batch", type=int, default=4)
    one.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="112 is 112x112x80")
    two.add_argument("--raw", type=Path, required=True, help="folder of the datasets")
    two.add_argument("--datasets", nargs="+", default=["Dataset501_LeftAtriumMR", "Dataset504_HeadNeckCT"])
    two.add_argument("--cases", type=int, default=20, help="of each dataset")
    for command in (one, two, three):
        command.add_argument("-o", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)  # times are CPU times
    if args.what in ("cost", "descent"):
        rows = {"cost": cost, "descent": descent}[args.what](args)
    else:
        rows = [row for name in args.datasets for row in labels_of(args.raw / name, args.cases)]
    print(format_table([[_short(v) for v in row.values()] for row in rows], list(rows[0])))
    if args.o:
        settings = {k: str(v) for k, v in vars(args).items() if k not in ("o", "raw")}
        settings |= {"device": f"CPU ({platform.machine()})", "torch": torch.__version__}
        args.o.parent.mkdir(parents=True, exist_ok=True)
        args.o.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
