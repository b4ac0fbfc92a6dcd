"""Whether memory, disk and graphics memory suffice for a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.doctor.facts import IMAGES_TR, IMAGES_UN, CaseFacts
from nnunet_ssl.doctor.findings import Finding, Severity
from nnunet_ssl.doctor.study import Study

GB = 1e9

# Bytes on disk per voxel and channel: float32, compressed. Three real sets took 1.4 to 2.5; noise hardly
# compresses.
DISK_LEAST, DISK_MOST = 1.4, 4.0
# Bytes of memory per channel: a fit to nnU-Net's preprocessor on 192^3 voxels, resampled to 0.34, 1 and
# 2.75 times as many (measured peaks 57, 28 and 107 bytes per voxel read; the fit is 57, 71 and 108).
MEMORY_PER_VOXEL_READ, MEMORY_PER_VOXEL_WRITTEN = 50, 21
# Processes that nnUNetv2_plan_and_preprocess takes unless told otherwise
_PROCESSES = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}


@dataclass(frozen=True)
class Need:
    """What a plan needs and the machine has, in bytes; ``None`` where unknown.

    Attributes:
        title: plans and configuration.
        configuration: its name.
        folder: where preprocessed cases go.
        shapes: voxels read and voxels written of each case yet to be preprocessed, all channels together.
        disk: free on the disk of ``folder``.
        memory: main memory that is free.
        gpu_needed: for supervised training.
        gpu: memory of the graphics card.
    """

    title: str
    configuration: str
    folder: Path
    shapes: Sequence[tuple[int, int]]
    disk: int | None
    memory: int | None
    gpu_needed: float | None
    gpu: int | None


def voxels_to_do(
    study: Study, spacing: Sequence[float], transpose: Sequence[int], done: frozenset[tuple[str, str]]
) -> list[tuple[int, int]]:
    """Voxels read and written for each case that preprocessing has yet to do, all channels together."""
    return [
        _voxels(case, spacing, transpose)
        for case in study.cases
        if case.folder in (IMAGES_TR, IMAGES_UN)
        and case.content_shape
        and (case.folder, case.case) not in done
    ]


def planned_shape(
    content: Sequence[int], spacing: Sequence[float], target: Sequence[float], transpose: Sequence[int]
) -> tuple[int, ...]:
    """Shape after cropping and resampling, as nnU-Net computes it.

    Args:
        content: shape after cropping (z, y, x).
        spacing: mm, in the same order.
        target: mm, in transposed order; two values leave the first axis alone.
        transpose: ``transpose_forward`` of the plans.
    """
    old_shape, old = [content[i] for i in transpose], [spacing[i] for i in transpose]
    wanted = [old[0], *target] if len(target) == 2 else list(target)
    return tuple(max(1, round(n * a / b)) for n, a, b in zip(old_shape, old, wanted, strict=True))


def check_need(need: Need) -> list[Finding]:
    """Disk, main memory and graphics memory."""
    return [*_disk(need), *_memory(need), *_gpu(need)]


def _voxels(case: CaseFacts, spacing: Sequence[float], transpose: Sequence[int]) -> tuple[int, int]:
    grid, count = case.channels[0].geometry, len(case.channels)
    written = planned_shape(case.content_shape, grid.spacing, spacing, transpose)
    return math.prod(grid.shape) * count, math.prod(written) * count


def _disk(need: Need) -> list[Finding]:
    voxels = sum(written for _, written in need.shapes)
    if need.disk is None or voxels * DISK_MOST <= need.disk:
        return []
    short = voxels * DISK_LEAST > need.disk
    text = (
        f"Preprocessing {len(need.shapes)} case(s) for {need.title} takes {voxels * DISK_LEAST / GB:.3g} to "
        f"{voxels * DISK_MOST / GB:.3g} GB; {need.disk / GB:.3g} GB are free at {need.folder.parent}."
    )
    todo = "Free disk space, or set nnUNet_preprocessed to a larger disk."
    return [Finding(Severity.ERROR if short else Severity.WARNING, "disk", text, todo)]


def _memory(need: Need) -> list[Finding]:
    if need.memory is None or not need.shapes:
        return []
    largest = max(MEMORY_PER_VOXEL_READ * r + MEMORY_PER_VOXEL_WRITTEN * w for r, w in need.shapes)
    processes = _PROCESSES.get(need.configuration, 4)
    if largest * processes <= need.memory:
        return []
    text = (
        f"Preprocessing the largest case for {need.title} takes about {largest / GB:.3g} GB of memory, in "
        f"{processes} processes {largest * processes / GB:.3g} GB; {need.memory / GB:.3g} GB are free."
    )
    if largest > need.memory:
        todo = (
            "Use a machine with more memory, a coarser -overwrite_target_spacing, or crop the largest scans."
        )
        return [Finding(Severity.ERROR, "memory", text, todo)]
    todo = f"Preprocess with -np {max(1, int(need.memory / largest))}."
    return [Finding(Severity.WARNING, "memory", text, todo)]


def _gpu(need: Need) -> list[Finding]:
    if need.gpu is None or need.gpu_needed is None or need.gpu_needed <= need.gpu:
        return []
    text = (
        f"{need.title} is made for about {need.gpu_needed / GB:.3g} GB of graphics memory (supervised; "
        f"unlabelled batches come on top); this card has {need.gpu / GB:.3g} GB."
    )
    todo = (
        "Plan for the card: nnUNetv2_plan_experiment -gpu_memory_target, or a smaller batch_size (configure)."
    )
    return [Finding(Severity.WARNING, "graphics-memory", text, todo)]
