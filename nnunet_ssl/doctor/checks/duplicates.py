"""Scans that are in the dataset twice. Where one copy trains and the other judges, the score is worthless.

Two tiers, by the correlation of thumbnails (see ``thumbnails.py``; measured in ``docs/doctor.md``):
a *copy* is the same image, re-saved, re-windowed, resampled or mirrored; *look-alikes* are frames of one
sweep or one patient, or an edited copy. Different patients were never as alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from nnunet_ssl.doctor.facts import IMAGES_TR, CaseFacts
from nnunet_ssl.doctor.findings import Finding, Severity
from nnunet_ssl.doctor.study import Part, Study, in_folds
from nnunet_ssl.doctor.thumbnails import similar_pairs

COPY, LOOK_ALIKE = 0.97, 0.90

_KEEP_TOGETHER = "nnUNetv2_ssl split --group-regex"


@dataclass(frozen=True)
class Pair:
    """Two cases that are alike.

    Attributes:
        one: a case.
        other: the other.
        correlation: of their thumbnails; 1 for equal voxels.
        exact: whether all voxels are equal.
    """

    one: CaseFacts
    other: CaseFacts
    correlation: float
    exact: bool

    @property
    def is_copy(self) -> bool:
        """Whether it is the same image rather than one like it."""
        return self.exact or self.correlation >= COPY

    @property
    def title(self) -> str:
        """Both names, for the table."""
        return f"{self.one.title} = {self.other.title}"

    @property
    def detail(self) -> str:
        """How alike they are."""
        return "equal voxels" if self.exact else f"correlation {self.correlation:.3f}"


@dataclass(frozen=True)
class Relation:
    """What a pair means for the folds: severity of copies, of look-alikes (``None``: not worth a line)."""

    found: str
    todo: str
    copy: Severity
    look_alike: Severity | None


LEAK = Relation(
    "in training and in validation or test",
    f"A leak: scores are too good. Keep one, or put both on one side ({_KEEP_TOGETHER}).",
    Severity.ERROR,
    Severity.WARNING,
)
JUDGED_TWICE = Relation(
    "in validation and in test",
    "What is chosen on validation is chosen on test, too. Keep one.",
    Severity.WARNING,
    Severity.NOTE,
)
BOTH_SOURCES = Relation(
    "labelled and unlabelled",
    "The unlabelled copy teaches nothing new. Remove it.",
    Severity.WARNING,
    None,
)
TWICE = Relation("twice in the same part", "Keep one: a copy counts double.", Severity.WARNING, None)
NO_SPLIT_YET = Relation(
    "in imagesTr, before there is a split",
    f"A random split would tear them apart: keep one, or keep them together ({_KEEP_TOGETHER}).",
    Severity.WARNING,
    Severity.WARNING,
)


def check_duplicates(study: Study) -> list[Finding]:
    """Exact and near duplicates, by what they mean for the folds."""
    groups: dict[tuple[Relation, bool], list[tuple[Pair, list[str]]]] = {}
    for pair in find_pairs(study.cases):
        relation, folds = relate(pair, study)
        if relation is not None:
            groups.setdefault((relation, pair.is_copy), []).append((pair, folds))
    findings = []
    for relation in (LEAK, JUDGED_TWICE, BOTH_SOURCES, TWICE, NO_SPLIT_YET):
        for is_copy in (True, False):
            severity = relation.copy if is_copy else relation.look_alike
            if (relation, is_copy) in groups and severity is not None:
                findings.append(_finding(relation, is_copy, severity, groups[relation, is_copy]))
    return findings


def find_pairs(cases: Sequence[CaseFacts]) -> list[Pair]:
    """Pairs of copies or look-alikes, exact ones first, then by correlation; never of constant images."""
    usable = [c for c in cases if c.channels and all(x.thumbnail is not None for x in c.channels)]
    pairs = {frozenset((id(a), id(b))): Pair(a, b, 1.0, True) for a, b in _equal(usable)}
    by_form: dict[tuple[int, int], list[CaseFacts]] = {}
    for case in usable:
        first = case.channels[0].thumbnail
        assert first is not None
        if len({x.thumbnail.shape for x in case.channels if x.thumbnail is not None}) == 1:
            by_form.setdefault((len(case.channels), first.ndim), []).append(case)
    for group in by_form.values():
        thumbnails = [[x.thumbnail for x in c.channels if x.thumbnail is not None] for c in group]
        for i, j, correlation in similar_pairs(thumbnails, LOOK_ALIKE):
            key = frozenset((id(group[i]), id(group[j])))
            pairs.setdefault(key, Pair(group[i], group[j], correlation, False))
    return sorted(pairs.values(), key=lambda p: (not p.exact, -p.correlation, p.title))


def relate(pair: Pair, study: Study) -> tuple[Relation | None, list[str]]:
    """The worst that a pair means in any fold, and the folds where it does."""
    by_relation: dict[Relation, list[str]] = {}
    for fold in study.folds:
        parts = (fold.part_of(pair.one), fold.part_of(pair.other))
        relation = _relation(parts, study.has_split, pair)
        if relation is not None:
            by_relation.setdefault(relation, []).append(fold.name)
    for relation in (LEAK, JUDGED_TWICE, NO_SPLIT_YET, BOTH_SOURCES, TWICE):
        if relation in by_relation:
            return relation, by_relation[relation]
    return None, []


def _relation(parts: tuple[Part, Part], has_split: bool, pair: Pair) -> Relation | None:
    one, other = parts
    if Part.UNUSED in parts:
        return None
    if (one.trains and other.judges) or (one.judges and other.trains):
        return LEAK
    if one.judges and other.judges and one != other:
        return JUDGED_TWICE
    if one != other:
        return BOTH_SOURCES
    in_training_folder = pair.one.folder == pair.other.folder == IMAGES_TR
    return NO_SPLIT_YET if in_training_folder and not has_split else TWICE


def _finding(
    relation: Relation, is_copy: bool, severity: Severity, hits: Iterable[tuple[Pair, list[str]]]
) -> Finding:
    hits = list(hits)
    folds = in_folds(sorted({fold for _, names in hits for fold in names if fold}, key=lambda f: (len(f), f)))
    what = "pair(s) of copies" if is_copy else "pair(s) of look-alikes (one sweep or patient?)"
    return Finding(
        severity,
        "duplicate" if is_copy else "look-alike",
        f"{len(hits)} {what}: {relation.found}{folds}.",
        relation.todo,
        tuple(pair.title for pair, _ in hits),
        tuple(pair.detail for pair, _ in hits),
    )


def _equal(cases: Iterable[CaseFacts]) -> list[tuple[CaseFacts, CaseFacts]]:
    by_digest: dict[tuple[str, ...], list[CaseFacts]] = {}
    for case in cases:
        by_digest.setdefault(case.digest, []).append(case)
    return [pair for group in by_digest.values() for pair in combinations(group, 2)]
