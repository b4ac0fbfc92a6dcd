"""Phantom scans of two tasks: a curved vessel and an organ with an irregular border.

Each task has its own contrast and its own distractors, which share the target's intensity and differ in
shape, so that a threshold does not solve it. Everything is drawn from a seed: the same seed makes the same
scans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from scipy.spatial import cKDTree

from nnunet_ssl.json_files import write_json_atomically

SHAPE = (24, 40, 40)  # voxels, (Z, Y, X)
SPACING = (2.5, 1.25, 1.25)  # mm, (Z, Y, X)
FILE_ENDING = ".nii.gz"

_EXTENT = np.array(SHAPE) * SPACING  # mm

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rng = np.random.Generator


@dataclass(frozen=True)
class Counts:
    """Scans of each task: labelled, unlabelled and for testing."""

    labeled: int = 4
    unlabeled: int = 24
    test: int = 8


@dataclass(frozen=True)
class PhantomTask:
    """What sets one task apart.

    Attributes:
        name: name of the task; its cases are called ``NAME_...``.
        label: name of its one foreground label.
        value: value of that label.
        contrast: range of the target's contrast against tissue, which is 1.
        target: draws the target's mask.
        distractors: what looks alike and is not the target: each kind, and its least and largest number. A
            kind that is absent from many scans is easily absent from the few labelled ones.
    """

    name: str
    label: str
    value: int
    contrast: tuple[float, float]
    target: Callable[[Rng], Mask]
    distractors: tuple[tuple[Callable[[Rng], Mask], int, int], ...]

    @property
    def prefix(self) -> str:
        """What the identifiers of its cases start with."""
        return f"{self.name}_"


def draw_vessel(rng: Rng) -> Mask:
    """A tube along a random curve from one side of the volume to the other, of varying width."""
    centre, direction, sideways = _pose(rng)
    t = np.linspace(-1, 1, 120)[:, None]
    bend, wave = rng.uniform(4, 14, 2)
    phase = rng.uniform(0, 2 * np.pi)
    curve = (
        centre + 26 * t * direction + bend * t**2 * sideways[0] + wave * np.sin(2.5 * t + phase) * sideways[1]
    )
    radius = rng.uniform(3.0, 4.2) * (1 + 0.25 * np.sin(3 * t[:, 0] + rng.uniform(0, 2 * np.pi)))
    distance, nearest = cKDTree(curve).query(_GRID)
    return distance < radius[nearest]


def draw_organ(rng: Rng) -> Mask:
    """An ellipsoid in a random position and pose whose border is pushed in and out smoothly."""
    return _blob(rng, rng.uniform(9, 17, 3), dent=0.22)


def draw_nodule(rng: Rng) -> Mask:
    """A small roundish structure, about as wide as a vessel."""
    return _blob(rng, rng.uniform(3.0, 6.0, 3), dent=0.1, margin=0.05)


def draw_lump(rng: Rng) -> Mask:
    """A smaller relative of the organ."""
    return _blob(rng, rng.uniform(3.5, 8.5, 3), dent=0.2, margin=0.05)


def draw_sheet(rng: Rng) -> Mask:
    """A thin plate."""
    return _blob(rng, np.array([2.5, rng.uniform(8, 14), rng.uniform(8, 14)]), dent=0.1)


def draw_rod(rng: Rng) -> Mask:
    """A thick rod, longer than the organ and thinner."""
    return _blob(rng, np.array([rng.uniform(18, 26), *rng.uniform(4, 6, 2)]), dent=0.1)


def draw_shell(rng: Rng) -> Mask:
    """A hollow ellipsoid."""
    outer = _blob(rng, rng.uniform(8, 13, 3), dent=0.1)
    return outer & (distance_transform_edt(outer, sampling=SPACING) <= 3.5)


TASKS = (
    PhantomTask(
        "Vessel",
        "vessel",
        1,
        (0.3, 1.0),
        draw_vessel,
        ((draw_nodule, 1, 4), (draw_sheet, 0, 1), (draw_shell, 0, 1)),
    ),
    PhantomTask(
        "Organ",
        "organ",
        2,
        (-0.6, -0.18),
        draw_organ,
        ((draw_lump, 1, 3), (draw_rod, 0, 1), (draw_shell, 0, 1)),
    ),
)


def make_case(task: PhantomTask, rng: Rng) -> tuple[Volume, Mask]:
    """Draw one scan and the mask of its target, each of shape ``SHAPE``."""
    target = task.target(rng)
    contrast = rng.uniform(*task.contrast)
    image = 1 + 0.08 * _smooth_noise(rng, 4)
    keep_off = (
        distance_transform_edt(~target, sampling=SPACING) < 2.5
    )  # a merged distractor would be ambiguous
    for draw, least, most in task.distractors:
        for _ in range(rng.integers(least, most + 1)):
            image[draw(rng) & ~keep_off] += contrast * rng.uniform(0.45, 0.9)
    image[target] += contrast
    image = gaussian_filter(image, 0.6)  # partial volume
    image *= 1 + 0.12 * _smooth_noise(rng, 14)  # bias field
    image += rng.uniform(0.05, 0.15) * rng.standard_normal(SHAPE)
    return image.astype(np.float32), target


def case_rng(seed: int, task: PhantomTask, group: str, index: int) -> Rng:
    """Generator of one case: its scan does not depend on how many others are made."""
    return np.random.default_rng([seed, task.value, *group.encode(), index])


def write_dataset(folder: Path, counts: Counts, seed: int = 0) -> None:
    """Write an nnU-Net dataset with two tasks, labelled, unlabelled and test scans.

    Args:
        folder: the dataset's folder, such as ``nnUNet_raw/Dataset990_Phantom``.
        counts: scans of each task.
        seed: what everything is drawn from.
    """
    groups = (("Tr", counts.labeled, True), ("Un", counts.unlabeled, False), ("Ts", counts.test, True))
    for task in TASKS:
        for group, count, with_labels in groups:
            for index in range(count):
                image, mask = make_case(task, case_rng(seed, task, group, index))
                case = f"{task.prefix}{group}{index:03d}"
                _write(
                    folder / f"images{group}" / f"{case}_0000{FILE_ENDING}", (100 * image).astype(np.int16)
                )
                if with_labels:
                    _write(
                        folder / f"labels{group}" / f"{case}{FILE_ENDING}", mask.astype(np.uint8) * task.value
                    )
    write_json_atomically(folder / "dataset.json", dataset_json(counts.labeled * len(TASKS)))


def dataset_json(num_training: int) -> dict[str, Any]:
    """The dataset's description, with the tasks block."""
    tasks = [{"name": t.name, "labels": [t.label], "prompts": {}, "prefix": t.prefix} for t in TASKS]
    return {
        "name": "Phantom",
        "description": "Two tasks, drawn at random by nnUNetv2_ssl demo",
        "channel_names": {"0": "phantom"},
        "labels": {"background": 0, **{t.label: t.value for t in TASKS}},
        "numTraining": num_training,
        "file_ending": FILE_ENDING,
        "nnunet_ssl": {"tasks": tasks},
    }


def _write(file: Path, array: NDArray[Any]) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file), useCompression=True)


def _blob(rng: Rng, radii: NDArray[np.float64], dent: float, margin: float = 0.3) -> Mask:
    """Ellipsoid of ``radii`` mm in a random pose; its border is displaced by about ``dent`` of the radius."""
    centre, first, others = _pose(rng, margin)
    axes = np.stack((first, *others))
    offset = (_GRID - centre) @ axes.T / radii
    parts, count = label(np.linalg.norm(offset, axis=-1) < 1 + dent * _smooth_noise(rng, 4))
    return parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=count + 1)[1:])  # without stray specks


def _pose(
    rng: Rng, margin: float = 0.3
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A point (mm) at least ``margin`` of the extent from the border, a direction, and two across it."""
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0].T
    return rng.uniform(margin, 1 - margin, 3) * _EXTENT, axes[0], axes[1:]


def _smooth_noise(rng: Rng, sigma_mm: float) -> NDArray[np.float64]:
    """Smooth random field with mean 0 and standard deviation 1."""
    noise = gaussian_filter(rng.standard_normal(SHAPE), sigma_mm / np.array(SPACING))
    return (noise - noise.mean()) / noise.std()


_GRID = np.stack(
    np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"), -1
)
