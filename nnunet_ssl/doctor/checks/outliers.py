"""Scans that do not look like the labelled ones in orientation, spacing or field of view."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.doctor.checks.reference import is_far, matching, references
from nnunet_ssl.doctor.facts import IMAGES_TR, CaseFacts
from nnunet_ssl.doctor.findings import Finding, Severity, of_cases
from nnunet_ssl.doctor.study import Study

SPACING_FACTOR = (
    1.5  # what is nearer to the median than this is no outlier, however alike the labelled cases are
)
EXTENT_FACTOR = 2.0
RARE = 0.05  # an orientation that fewer labelled cases have is rare

Measure = Callable[[CaseFacts], NDArray[np.float64]]


def check_spacing(study: Study) -> list[Finding]:
    """Spacing along z, y or x, on a logarithmic scale, against the labelled cases of the task."""
    hits = _far_cases(study, lambda case: np.log(case.channels[0].geometry.spacing), SPACING_FACTOR)
    remarks = [
        (case, "x".join(f"{s:.3g}" for s in case.channels[0].geometry.spacing) + " mm") for case in hits
    ]
    todo = (
        "See whether the header is right. nnU-Net resamples all scans to one spacing: from a much coarser "
        "one little can be learnt."
    )
    return _by_origin("spacing", "a spacing far from the labelled cases (z, y, x)", todo, remarks)


def check_extent(study: Study) -> list[Finding]:
    """Field of view along z, y or x, on a logarithmic scale, against the labelled cases of the task."""
    hits = _far_cases(study, lambda case: np.log(case.channels[0].geometry.extent), EXTENT_FACTOR)
    remarks = [
        (case, "x".join(f"{e:.0f}" for e in case.channels[0].geometry.extent) + " mm") for case in hits
    ]
    todo = "See whether they show the same part of the body; crop them or leave them out if not."
    return _by_origin("field-of-view", "a field of view far from the labelled cases (z, y, x)", todo, remarks)


def check_orientation(study: Study) -> list[Finding]:
    """Directions of the axes that no labelled case of the task has, or only a few."""
    by_task = references(study, _has_orientation)
    hits = []
    for case in filter(_has_orientation, study.cases):
        groups = matching(study, case, by_task)
        mine = case.channels[0].geometry.orientation
        if groups and all(
            _is_rare(mine, [c.channels[0].geometry.orientation for c in group]) for group in groups
        ):
            usual = Counter(c.channels[0].geometry.orientation for c in groups[0]).most_common(1)[0][0]
            hits.append((case, f"{mine}, usual is {usual}"))
    todo = (
        "nnU-Net takes voxels in the order of the file: reorient these scans, or have all "
        "reoriented with 'overwrite_image_reader_writer': 'NibabelIOWithReorient' in dataset.json (NIfTI), "
        "then plan anew."
    )
    return _by_origin("orientation", "axes in another order or direction than the labelled cases", todo, hits)


def _has_orientation(case: CaseFacts) -> bool:
    return bool(case.channels) and case.channels[0].geometry.orientation is not None


def _is_rare(mine: str | None, group: list[str | None]) -> bool:
    return group.count(mine) < max(1, RARE * len(group))


def _far_cases(study: Study, measure: Measure, factor: float) -> list[CaseFacts]:
    by_task = references(study, lambda case: bool(case.channels))
    stacked = {task: np.stack([measure(case) for case in cases]) for task, cases in by_task.items()}
    hits = []
    for case in study.cases:
        groups = matching(study, case, stacked) if case.channels else []
        if groups and all(is_far(measure(case), group, math.log(factor)) for group in groups):
            hits.append(case)
    return hits


def _by_origin(check: str, what: str, todo: str, hits: list[tuple[CaseFacts, str]]) -> list[Finding]:
    """A warning for scans without a label in use, a note for labelled ones, which may be meant to be so."""
    labeled = [hit for hit in hits if hit[0].folder == IMAGES_TR]
    others = [hit for hit in hits if hit[0].folder != IMAGES_TR]
    return [
        *of_cases(Severity.WARNING, check, f"{{n}} scan(s) have {what}.", todo, others),
        *of_cases(
            Severity.NOTE,
            check,
            f"{{n}} case(s) of imagesTr have {what}: they are the odd ones out.",
            todo,
            labeled,
        ),
    ]
