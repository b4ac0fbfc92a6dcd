"""What a case is compared with: the labelled cases of its task, and a robust rule for what is far from them.

The rule is the modified z-score of Iglewicz and Hoaglin (How to Detect and Handle Outliers, 1993):
``0.6745 * |x - median| / MAD > 3.5``, and besides the difference must be of a size that matters, since in a
set without any spread (all spacings equal) every rounding error would be an outlier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.doctor.facts import IMAGES_TR, CaseFacts
from nnunet_ssl.doctor.study import Study

T = TypeVar("T")

LIMIT = 3.5
LEAST_REFERENCE = 5  # median and MAD of fewer cases say nothing


def modified_z(values: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Modified z-scores of ``values`` (N, ...) by median and MAD of ``reference`` (M, ...), elementwise."""
    median = np.median(reference, axis=0)
    mad = np.median(np.abs(reference - median), axis=0)
    return 0.6745 * np.abs(values - median) / np.maximum(mad, np.finfo(float).tiny)


def is_far(value: NDArray[np.float64], reference: NDArray[np.float64], least: float) -> bool:
    """Whether an element of ``value`` (D,) is an outlier to ``reference`` (M, D) and off by ``least``."""
    off = np.abs(value - np.median(reference, axis=0))
    with np.errstate(over="ignore"):
        return bool(((modified_z(value, reference) > LIMIT) & (off >= least)).any())


def references(study: Study, usable: Callable[[CaseFacts], bool]) -> dict[int, list[CaseFacts]]:
    """Cases of imagesTr by task, of those for which ``usable`` holds; tasks with too few are left out."""
    by_task: dict[int, list[CaseFacts]] = {}
    for case in study.in_folder(IMAGES_TR):
        if usable(case):
            by_task.setdefault(study.table.known_task_of(case.case), []).append(case)
    return {task: cases for task, cases in by_task.items() if len(cases) >= LEAST_REFERENCE and task >= 0}


def matching(study: Study, case: CaseFacts, by_task: Mapping[int, T]) -> list[T]:
    """The references for one case: that of its task, or all where the task is not known.

    A scan of unknown task is an outlier if it is one to every task.
    """
    task = study.table.known_task_of(case.case)
    if task >= 0:
        return [by_task[task]] if task in by_task else []
    return list(by_task.values())
