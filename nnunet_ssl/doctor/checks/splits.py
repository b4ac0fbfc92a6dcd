"""Who plays which part: cases in two parts, a split that does not fit the files, patients torn apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from nnunet_ssl.conversion.split import group_key
from nnunet_ssl.doctor.facts import IMAGES_TR, IMAGES_TS, IMAGES_UN, CaseFacts
from nnunet_ssl.doctor.findings import Finding, Severity
from nnunet_ssl.doctor.study import Fold, Part, Study, in_folds
from nnunet_ssl.errors import DataError

# Tried when no regular expression is given: all up to the first number that a separator follows, such as
# patient012 in patient012_frame01
GUESS = r"^(.*?\d+)[_-]"
_MOST_OF_ONE = 0.2  # a guess that puts more of the cases into one group is wrong (BraTS19_...)


def check_parts(study: Study) -> list[Finding]:
    """A case of one identifier in two parts: the trainer refuses it."""
    ids = {folder: {c.case for c in study.in_folder(folder)} for folder in (IMAGES_TR, IMAGES_UN, IMAGES_TS)}
    hidden = frozenset().union(*(fold.hidden for fold in study.folds))
    findings = []
    for found, cases in (
        ("of imagesUn are in imagesTr, too", ids[IMAGES_UN] & ids[IMAGES_TR]),
        ("of imagesUn are in imagesTs, too", ids[IMAGES_UN] & ids[IMAGES_TS]),
        ("that the split hides ('unlabeled') are in imagesTs, too", hidden & ids[IMAGES_TS]),
    ):
        if cases:
            text = f"{len(cases)} case(s) {found}: nobody can play two parts."
            todo = "Remove them from one, or rename them if only the names are equal."
            findings.append(Finding(Severity.ERROR, "two-parts", text, todo, tuple(sorted(cases))))
    both = ids[IMAGES_TR] & ids[IMAGES_TS]
    if both:
        text = f"{len(both)} case(s) of imagesTs bear a name of imagesTr."
        todo = "Remove them from imagesTs if they are the same scans; rename them if not."
        findings.append(Finding(Severity.WARNING, "two-parts", text, todo, tuple(sorted(both))))
    return findings


def check_folds(study: Study) -> list[Finding]:
    """Each fold names cases that exist, each once, and names all of them."""
    known = {case.case for case in study.in_folder(IMAGES_TR)}
    findings = []
    twice: dict[str, list[str]] = {}
    unknown: dict[str, list[str]] = {}
    unused: dict[str, list[str]] = {}
    for fold in study.folds if study.has_split else ():
        named = fold.train | fold.val | fold.hidden
        for case in (fold.train & fold.val) | (fold.train & fold.hidden) | (fold.val & fold.hidden):
            twice.setdefault(case, []).append(fold.name)
        for case in named - known:
            unknown.setdefault(case, []).append(fold.name)
        for case in known - named:
            unused.setdefault(case, []).append(fold.name)
    for severity, check, found, todo, cases in (
        (
            Severity.ERROR,
            "two-parts",
            "are in more than one of 'train', 'val' and 'unlabeled' of a fold",
            "Make the split anew with nnUNetv2_ssl split.",
            twice,
        ),
        (
            Severity.ERROR,
            "stale-split",
            "are in splits_final.json but not in imagesTr",
            "Make the split anew with nnUNetv2_ssl split, or bring the cases back.",
            unknown,
        ),
        (
            Severity.NOTE,
            "stale-split",
            "of imagesTr are not in the split: they are not used",
            "Make the split anew if they are new.",
            unused,
        ),
    ):
        if cases:
            text = f"{len(cases)} case(s) {found}{in_folds(sorted({f for v in cases.values() for f in v}))}."
            findings.append(Finding(severity, check, text, todo, tuple(sorted(cases))))
    return findings + _empty_folds(study)


def check_patients(study: Study) -> list[Finding]:
    """Patients of whom one scan trains and another judges; by --group-regex, or by a guess at it."""
    regex = study.group_regex if study.group_regex is not None else guess_regex(study.cases)
    if regex is None:
        return []
    key_of, nameless = _keys(study.cases, regex)
    findings = []
    if nameless and study.group_regex is not None:
        text = f"{len(nameless)} case(s) belong to no patient: --group-regex finds nothing in their names."
        todo = "Let the regular expression match every case."
        findings.append(Finding(Severity.WARNING, "torn-patient", text, todo, tuple(nameless)))
    torn: dict[tuple[str, str], list[str]] = {}
    for fold in study.folds:
        for patient, pair in _torn(study.cases, fold, key_of).items():
            torn.setdefault((patient, pair), []).append(fold.name)
    if torn:
        findings.append(_torn_finding(torn, study.group_regex is not None, regex))
    if not study.has_split:
        findings += _needs_groups(study, key_of, regex)
    return findings


def guess_regex(cases: Iterable[CaseFacts]) -> str | None:
    """``GUESS`` if it groups cases of imagesTr sensibly: some together, none with too many."""
    keys = [m[1] for c in cases if c.folder == IMAGES_TR and (m := re.search(GUESS, c.case))]
    sizes = [keys.count(key) for key in set(keys)]
    if not sizes or max(sizes) < 2 or max(sizes) > max(2, _MOST_OF_ONE * len(keys)):
        return None
    return GUESS


def _keys(cases: Iterable[CaseFacts], regex: str) -> tuple[dict[str, str], list[str]]:
    """Patient of each case by identifier, as ``nnUNetv2_ssl split`` groups them, and cases without one."""
    key_of, nameless = {}, []
    for case in cases:
        try:
            key_of[case.case] = group_key(case.case, regex)
        except DataError:
            nameless.append(case.title)
    return key_of, nameless


def _torn(cases: Iterable[CaseFacts], fold: Fold, key_of: Mapping[str, str]) -> dict[str, str]:
    """Patients torn apart in a fold, each with an example: one case that trains, one that judges."""
    trains: dict[str, CaseFacts] = {}
    judges: dict[str, CaseFacts] = {}
    for case in cases:
        part = fold.part_of(case)
        if case.case in key_of and part is not Part.UNUSED:
            (trains if part.trains else judges).setdefault(key_of[case.case], case)
    return {
        patient: f"{trains[patient].title} trains, {judges[patient].title} judges"
        for patient in sorted(trains.keys() & judges.keys())
        if trains[patient].case != judges[patient].case  # equal names: see check_parts
    }


def _torn_finding(torn: Mapping[tuple[str, str], list[str]], asked: bool, regex: str) -> Finding:
    folds = in_folds(sorted({fold for names in torn.values() for fold in names}))
    examples = dict(torn.keys())
    guessed = "" if asked else f" (patients guessed from the names by '{regex}')"
    return Finding(
        # A guess must not stop a training
        Severity.ERROR if asked else Severity.WARNING,
        "torn-patient",
        f"{len(examples)} patient(s) are torn between training and validation or test{folds}{guessed}.",
        f"A leak: scores are too good. Split by patient: nnUNetv2_ssl split --group-regex '{regex}'.",
        tuple(examples),
        tuple(examples.values()),
    )


def _needs_groups(study: Study, key_of: Mapping[str, str], regex: str) -> list[Finding]:
    groups: dict[str, list[str]] = {}
    for case in study.in_folder(IMAGES_TR):
        if case.case in key_of:
            groups.setdefault(key_of[case.case], []).append(case.case)
    several = {key: members for key, members in groups.items() if len(members) > 1}
    if not several:
        return []
    text = f"{len(several)} patient(s) of imagesTr have several cases, and there is no split yet."
    todo = f"Keep them together: nnUNetv2_ssl split --group-regex '{regex}'. nnU-Net's own split would not."
    details = tuple(f"{len(members)} cases" for members in several.values())
    return [Finding(Severity.WARNING, "torn-patient", text, todo, tuple(several), details)]


def _empty_folds(study: Study) -> list[Finding]:
    empty = [fold.name for fold in study.folds if fold.name and not fold.train]
    if not empty:
        return []
    text = f"There is no labelled training case{in_folds(empty)}."
    return [Finding(Severity.ERROR, "stale-split", text, "Make the split anew with nnUNetv2_ssl split.")]
