"""Cases made of facts, without files, for the tests of the doctor's checks."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_ssl.doctor.checks import resources
from nnunet_ssl.doctor.facts import QUANTILE_LEVELS, CaseFacts, ChannelFacts, Geometry, LabelFacts
from nnunet_ssl.doctor.findings import Finding
from nnunet_ssl.doctor.study import Fold, Study
from nnunet_ssl.doctor.thumbnails import thumbnail

SHAPE, SPACING = (8, 12, 12), (2.0, 1.0, 1.0)
ONE_TASK = {"background": 0, "organ": 1, "tumour": 2}
TWO_TASKS = {
    "labels": {"background": 0, "heart": 1, "liver": 2, "spleen": 3},
    "nnunet_ssl": {
        "tasks": [
            {"name": "Heart", "labels": ["heart"], "prefix": "Heart_"},
            {"name": "Belly", "labels": ["liver", "spleen"], "prefix": "Belly_"},
        ]
    },
}


def affine(spacing: Sequence[float] = SPACING, flips: Sequence[int] = (1, 1, 1), shift: float = 0.0) -> Any:
    """Axes along right, anterior, superior, or against them where ``flips`` is -1; spacing is (z, y, x)."""
    matrix = np.diag([*(f * s for f, s in zip(flips, spacing[::-1], strict=True)), 1.0])
    matrix[0, 3] = shift
    return tuple(map(tuple, matrix.tolist()))


def grid(
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    flips: Sequence[int] = (1, 1, 1),
    shift: float = 0,
) -> Geometry:
    return Geometry(tuple(shape), tuple(spacing), affine(spacing, flips, shift))


def channel(
    seed: int = 0, geometry: Geometry | None = None, volume: Any = None, **changes: Any
) -> ChannelFacts:
    """A channel of noise, or of ``volume``; ``changes`` overwrite facts."""
    geometry = geometry or grid()
    if volume is None:
        volume = np.random.default_rng(seed).normal(100, 10, geometry.shape)
    volume = np.asarray(volume, dtype=np.float32)
    facts: dict[str, Any] = {
        "file": "case_0000.nii.gz",
        "geometry": geometry,
        "nonfinite": 0,
        "minimum": float(volume.min()),
        "maximum": float(volume.max()),
        "mean": float(volume.mean()),
        "std": float(volume.std()),
        "quantiles": np.quantile(volume, QUANTILE_LEVELS).astype(np.float32),
        "digest": str(hash(volume.tobytes())),
        "thumbnail": thumbnail(volume.copy(), geometry.affine, (float(volume.min()), float(volume.max()))),
    }
    return ChannelFacts(**facts | changes)


def case(
    name: str,
    folder: str = "imagesTr",
    values: Iterable[int | float] | None = (0, 1, 2),
    channels: Sequence[ChannelFacts] | None = None,
    geometry: Geometry | None = None,
    label_geometry: Geometry | None = None,
    **changes: Any,
) -> CaseFacts:
    """A case with one channel of noise of its own; a label of ``values`` in imagesTr."""
    geometry = geometry or grid()
    channels = channels or (channel(zlib.crc32(f"{folder}/{name}".encode()), geometry),)
    label = None
    if folder == "imagesTr" and values is not None:
        counts = {float(v): 10 for v in values}
        label = LabelFacts(f"{name}.nii.gz", label_geometry or channels[0].geometry, counts)
    facts: dict[str, Any] = {"channels": tuple(channels), "label": label, "content_shape": geometry.shape}
    return CaseFacts(folder, name, **facts | changes)


def study(
    cases: Sequence[CaseFacts],
    folds: Sequence[Fold] | None = None,
    dataset_json: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Study:
    """A dataset of ``cases``; without folds, one without a split."""
    training = frozenset(c.case for c in cases if c.folder == "imagesTr")
    content = {
        "labels": ONE_TASK,
        "channel_names": {"0": "MRI"},
        "numTraining": len(training),
        "file_ending": ".nii.gz",
    }
    folds = [Fold("", training)] if folds is None else folds
    normalization = changes.pop("normalization", ["ZScoreNormalization"])
    return Study("Dataset900_Toy", content | dict(dataset_json or {}), cases, folds, normalization, **changes)


def fold(
    name: str = "0", train: Iterable[str] = (), val: Iterable[str] = (), hidden: Iterable[str] = ()
) -> Fold:
    return Fold(name, frozenset(train), frozenset(val), frozenset(hidden))


def said(findings: Iterable[Finding]) -> list[tuple[str, str, tuple[str, ...]]]:
    """What tests compare: severity, check and cases."""
    return [(str(f.severity), f.check, f.cases) for f in findings]


def need(**changes: Any) -> resources.Need:
    """A plan that fits: 10 cases of a megavoxel, plenty of everything."""
    from pathlib import Path

    facts: dict[str, Any] = {
        "title": "nnUNetPlans, 3d_fullres",
        "configuration": "3d_fullres",
        "folder": Path("/somewhere/nnUNetPlans_3d_fullres"),
        "shapes": [(10**6, 10**6)] * 10,
        "disk": 10**12,
        "memory": 10**12,
        "gpu_needed": 8e9,
        "gpu": 10**10,
    }
    return resources.Need(**facts | changes)
