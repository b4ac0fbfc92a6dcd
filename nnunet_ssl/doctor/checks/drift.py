"""Drift of intensities between labelled and unlabelled scans.

Intensities are compared as the network will get them. Where nnU-Net normalises each case by its mean and
standard deviation, so does this; else (CT) values are compared as stored, in units of the labelled cases'
spread. Voxels of value 0 are left out: in most scans they are padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.doctor.checks.reference import LEAST_REFERENCE
from nnunet_ssl.doctor.facts import CaseFacts, ChannelFacts
from nnunet_ssl.doctor.findings import Finding, Severity
from nnunet_ssl.doctor.study import Fold, Part, Study, in_folds

DRIFT = 0.1  # standard deviations; see docs/doctor.md for what real sets measure
SIGNIFICANCE, PERMUTATIONS = 0.01, 999

Curves = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Labelled and unlabelled cases of one task and channel, in one fold.

    Attributes:
        task: name of the task; empty in a dataset of one.
        channel: position of the channel.
        labeled: cases whose labels are used.
        unlabeled: cases without, those of unknown task included.
        test: cases of imagesTs.
    """

    task: str
    channel: int
    labeled: list[CaseFacts]
    unlabeled: list[CaseFacts]
    test: list[CaseFacts]


@dataclass(frozen=True)
class Drift:
    """How far two groups are apart.

    Attributes:
        distance: mean difference of the mean quantiles (1-Wasserstein distance of the average distributions),
            in standard deviations.
        p_value: share of random relabellings that are at least as far apart.
    """

    distance: float
    p_value: float

    @property
    def matters(self) -> bool:
        """Whether it is both large and no accident."""
        return self.distance >= DRIFT and self.p_value <= SIGNIFICANCE


def check_drift(study: Study) -> list[Finding]:
    """Labelled against unlabelled scans, by task, channel and fold."""
    worst: dict[tuple[str, int], tuple[Drift, list[str]]] = {}
    for fold in study.folds:
        for group in groups(study, fold):
            drift = measure(group, study)
            if drift is not None and drift.matters:
                before, names = worst.get((group.task, group.channel), (drift, []))
                stronger = max(before, drift, key=lambda d: d.distance)
                worst[group.task, group.channel] = stronger, [*names, fold.name]
    findings = []
    for (task, channel), (drift, names) in worst.items():
        of_task = f" of task '{task}'" if task else ""
        text = (
            f"Intensities of channel {channel} ({channel_name(study, channel)}) drift between labelled and "
            f"unlabelled scans{of_task}{in_folds(names)}: {drift.distance:.2f} standard deviations "
            f"(p = {drift.p_value:.3f})."
        )
        todo = "Look at the picture (-o). Another scanner, unit or window? Convert them or leave them out."
        findings.append(Finding(Severity.WARNING, "drift", text, todo))
    return findings


def groups(study: Study, fold: Fold) -> Iterator[Group]:
    """What is compared with what in a fold; scans of unknown task are compared with every task."""
    for task, name in enumerate(task.name for task in study.table.tasks):
        mine = [c for c in study.cases if study.table.known_task_of(c.case) in (task, -1)]
        parts = {part: [c for c in mine if fold.part_of(c) is part] for part in Part}
        labeled = [*parts[Part.LABELED], *parts[Part.VALIDATION]]
        for channel in range(len(study.channel_names)):
            cases = (
                [c for c in members if is_usable(c, channel)]
                for members in (labeled, parts[Part.UNLABELED], parts[Part.TEST])
            )
            yield Group(name if len(study.table) > 1 else "", channel, *cases)


def measure(group: Group, study: Study) -> Drift | None:
    """Drift within a group; ``None`` if labelled or unlabelled cases are too few to say anything."""
    if min(len(group.labeled), len(group.unlabeled)) < LEAST_REFERENCE:
        return None
    labeled = curves(group.labeled, group.channel, study)
    unlabeled = curves(group.unlabeled, group.channel, study)
    scale = spread_of(labeled)
    both, count = np.concatenate([labeled, unlabeled]) / scale, len(labeled)
    observed = _distance(both, np.arange(len(both)) < count)
    rng = np.random.default_rng(0)  # the same verdict at each run
    chosen = np.arange(len(both)) < count
    random = [_distance(both, rng.permutation(chosen)) for _ in range(PERMUTATIONS)]
    as_far = sum(distance >= observed for distance in random)
    return Drift(observed, (1 + as_far) / (1 + PERMUTATIONS))


def curves(cases: Iterable[CaseFacts], channel: int, study: Study, raw: bool = False) -> Curves:
    """Quantiles (N, 100) of each case as the network will get them, or ``raw``, as stored."""
    per_case = not raw and is_per_case(study, channel)
    return np.stack([_curve(case.channels[channel], per_case) for case in cases])


def is_per_case(study: Study, channel: int) -> bool:
    """Whether nnU-Net normalises the channel case by case, which undoes brightness and contrast."""
    names = study.normalization
    return channel >= len(names) or names[channel] in ("ZScoreNormalization", "RescaleTo01Normalization")


def channel_name(study: Study, channel: int) -> str:
    """Name of a channel in dataset.json."""
    return study.channel_names[channel]


def is_usable(case: CaseFacts, channel: int) -> bool:
    """Whether a case has the channel and something is to be seen in it."""
    return channel < len(case.channels) and not case.channels[channel].is_constant


def _curve(facts: ChannelFacts, per_case: bool) -> Curves:
    quantiles = facts.quantiles.astype(np.float64)
    return (quantiles - facts.mean) / max(facts.std, 1e-8) if per_case else quantiles


def spread_of(labeled: Curves) -> float:
    """Standard deviation of the labelled cases' voxels, all together; about 1 after z-score."""
    return max(float(labeled.std()), 1e-12)


def _distance(both: Curves, chosen: NDArray[np.bool_]) -> float:
    return float(np.abs(both[chosen].mean(0) - both[~chosen].mean(0)).mean())
