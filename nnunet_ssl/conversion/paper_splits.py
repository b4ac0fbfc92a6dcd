"""Splits that papers used, in the form of ``splits_final.json``, each with its source.

nnU-Net and our trainers read ``train``, ``val`` and ``unlabeled`` of a fold and leave other keys alone, so
the source travels in the fold itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_ssl.conversion.cases import Case

_ROLES = ("train", "val", "unlabeled")
ON_TEST = (
    "The official code keeps the checkpoint that is best on the test cases; published numbers may be too "
    "good. Take the final checkpoint."
)


@dataclass(frozen=True)
class Split:
    """A split with its provenance.

    Attributes:
        name: file name without ending.
        source: paper or repository that it follows.
        folds: cases by role, in each fold.
        chosen_on_test: the paper or its code chose models by their score on test cases.
        note: in what it departs from its source.
    """

    name: str
    source: str
    folds: Sequence[Mapping[str, Sequence[str]]]
    chosen_on_test: bool = False
    note: str = ""

    def to_json(self, present: Collection[str]) -> list[dict[str, Any]]:
        """The folds, without cases that the download lacks; each says what it is."""
        folds = []
        for fold in self.folds:
            roles = {role: sorted(case for case in fold[role] if case in present) for role in _ROLES}
            missing = sum(len(fold[role]) - len(roles[role]) for role in _ROLES)
            stamp: dict[str, Any] = {"source": self.source, "models_chosen_on_test": self.chosen_on_test}
            note = " ".join(text for text in (self.note, ON_TEST if self.chosen_on_test else "") if text)
            if note:
                stamp["note"] = note
            if missing:
                stamp["missing_cases"] = missing
            folds.append({**roles, **stamp})
        return folds

    def is_usable(self, present: Collection[str]) -> bool:
        """Whether every fold has labelled and validation cases among those present."""
        return all(any(c in present for c in fold[r]) for fold in self.folds for r in ("train", "val"))


def fold(labeled: Iterable[str], val: Iterable[str], training: Iterable[str]) -> dict[str, list[str]]:
    """A fold whose unlabelled cases are what is left of the training cases."""
    labeled, val = list(labeled), list(val)
    used = {*labeled, *val}
    return {"train": labeled, "val": val, "unlabeled": [case for case in training if case not in used]}


def fold_with_last(labeled: Sequence[str], ordered: Sequence[str], val: int) -> dict[str, list[str]]:
    """A fold with these labelled cases, and for validation the last ``val`` of the others."""
    others = [case for case in ordered if case not in set(labeled)]
    return fold(labeled, others[len(others) - val :] if len(others) > val else [], ordered)


def drawn(cases: Iterable[Case], share: float, purpose: str) -> list[str]:
    """A share of the cases, in whole groups, drawn by a hash: the same on every machine.

    Groups are taken in a fixed order until the number of cases is nearest to the share (the fewer of two),
    but at least one; so a larger share holds every smaller one of the same purpose.
    """
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(case.together, []).append(case.identifier)
    order = sorted(groups, key=lambda g: hashlib.sha256(f"{purpose}/{g}".encode()).digest())
    wanted = share * sum(map(len, groups.values()))
    taken: list[str] = []
    for group in order:
        if taken and math.fabs(len(taken) + len(groups[group]) - wanted) >= math.fabs(len(taken) - wanted):
            break
        taken += groups[group]
    return taken


def drawn_shares(
    cases: Sequence[Case], name: str, shares: Mapping[str, float], val: float, source: str, note: str
) -> list[Split]:
    """Splits with drawn labelled cases: one validation set, and one split for each share of the rest.

    Args:
        cases: all cases; only the training ones are split.
        name: start of the names, which go on with the keys of ``shares``.
        shares: of the training cases outside the validation, which keep their labels.
        val: share of the training cases for validation.
        source: the paper whose proportions these are.
        note: what is not the paper's.
    """
    training = [case for case in cases if case.subset == "train"]
    held_out = drawn(training, val, "val")
    rest = [case for case in training if case.identifier not in set(held_out)]
    every = [case.identifier for case in training]
    return [
        Split(f"{name}-{key}", source, [fold(drawn(rest, share, "labeled"), held_out, every)], True, note)
        for key, share in shares.items()
    ]
