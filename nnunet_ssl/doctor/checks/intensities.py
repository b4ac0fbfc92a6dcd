"""Values of the scans: broken ones, constant ones, and scans whose intensities are like no other's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.doctor.checks.drift import Curves, channel_name, curves, is_usable, spread_of
from nnunet_ssl.doctor.checks.reference import LIMIT, matching, modified_z, references
from nnunet_ssl.doctor.facts import IMAGES_TR, CaseFacts
from nnunet_ssl.doctor.findings import Finding, Severity, of_cases
from nnunet_ssl.doctor.study import Study

OUTLIER = 0.4  # standard deviations; see docs/doctor.md for what real sets measure


@dataclass(frozen=True)
class Typical:
    """Intensities of the labelled cases of a task.

    Attributes:
        curve: median of their quantiles (100,).
        scale: one standard deviation.
        distances: of each case from ``curve``, in standard deviations (N,).
    """

    curve: Curves
    scale: float
    distances: NDArray[np.float64]


def check_values(study: Study) -> list[Finding]:
    """NaN and infinite voxels; scans without any contrast, whole or in one channel."""
    broken: list[tuple[CaseFacts, str]] = []
    constant: list[tuple[CaseFacts, str]] = []
    partly: list[tuple[CaseFacts, str]] = []
    for case in study.cases:
        bad = [f"{c.file}: {c.nonfinite} voxels" for c in case.channels if c.nonfinite]
        broken += [(case, ", ".join(bad))] if bad else []
        flat = [c for c in case.channels if c.is_constant]
        if flat:
            remark = ", ".join(f"{c.file}: {c.minimum:g}" for c in flat)
            (constant if len(flat) == len(case.channels) else partly).append((case, remark))
    todo = "Export the scans again, or remove them."
    return [
        *of_cases(
            Severity.ERROR,
            "nan",
            "{n} case(s) have voxels that are NaN or infinite.",
            "Replace them by a value that makes sense, such as that of air: readers differ over them.",
            broken,
        ),
        *of_cases(Severity.ERROR, "constant", "{n} scan(s) have one value throughout.", todo, constant),
        *of_cases(
            Severity.WARNING, "constant", "{n} case(s) have a channel of one value throughout.", todo, partly
        ),
    ]


def check_outliers(study: Study) -> list[Finding]:
    """Single scans whose intensities are far from those of the labelled cases of their task."""
    far: dict[str, tuple[CaseFacts, str]] = {}
    for channel in range(len(study.channel_names)):
        by_task = references(study, partial(is_usable, channel=channel))
        typical = {task: _typical(cases, channel, study) for task, cases in by_task.items()}
        for case in (c for c in study.cases if is_usable(c, channel)):
            curve = curves([case], channel, study)[0]
            distances = [_outlying(curve, one) for one in matching(study, case, typical)]
            if distances and all(distance is not None for distance in distances):
                nearest = min(distance for distance in distances if distance is not None)
                remark = f"{channel_name(study, channel)}: {nearest:.2g} standard deviations"
                far.setdefault(case.title, (case, remark))
    todo = "Look at them: inverted, windowed, other units (HU + 1024?) or sequence? Convert or leave out."
    others = [hit for hit in far.values() if hit[0].folder != IMAGES_TR]
    labeled = [hit for hit in far.values() if hit[0].folder == IMAGES_TR]
    return [
        *of_cases(
            Severity.WARNING,
            "intensity",
            "{n} scan(s) have intensities far from the labelled cases.",
            todo,
            others,
        ),
        *of_cases(
            Severity.NOTE,
            "intensity",
            "{n} case(s) of imagesTr have intensities far from the other labelled cases.",
            todo,
            labeled,
        ),
    ]


def _typical(cases: Iterable[CaseFacts], channel: int, study: Study) -> Typical:
    reference = curves(cases, channel, study)
    curve, scale = np.median(reference, axis=0), spread_of(reference)
    return Typical(curve, scale, np.abs(reference - curve).mean(1) / scale)


def _outlying(curve: Curves, typical: Typical) -> float | None:
    """Distance of a case from the typical labelled one in standard deviations, if it is an outlier."""
    own = float(np.abs(curve - typical.curve).mean() / typical.scale)
    z = modified_z(np.array([own]), typical.distances)[0]
    return own if own >= OUTLIER and own > np.median(typical.distances) and z > LIMIT else None
