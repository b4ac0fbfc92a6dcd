"""Draw a benchmark's test cases and folds, reproducibly, with the same means as ``nnUNetv2_ssl split``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from nnunet_ssl.benchmark.plan import ALL, Fold, Plan, Settings, Wish
from nnunet_ssl.conversion.split import (
    Cases,
    SplitRequest,
    count_notes,
    group_cases,
    group_key,
    make_splits,
    parse_labeled,
)
from nnunet_ssl.data.layout import IMAGES_UNLABELED, UNLABELED
from nnunet_ssl.errors import ConfigError, DataError, few

# Choosing test cases has a seed of its own, so that all seeds are tested on the same ones.
_TEST_SEED = 0


def make_plan(
    settings: Settings, wish: Wish, cases: Cases, tests: Sequence[Sequence[str]], bare: Iterable[str] = ()
) -> tuple[Plan, list[str]]:
    """Draw the folds of a new benchmark.

    Args:
        settings: what stays the same.
        wish: what is compared.
        cases: the labelled cases of the dataset.
        tests: test cases of each part. No case of their groups is trained on.
        bare: scans in ``imagesUn``; those of a group that any part tests are left out of all.

    Returns:
        The plan, and sentences about what was left out.

    Raises:
        DataError: the cases do not suffice.
        ConfigError: a number of labels makes no sense.
    """
    wish = dataclasses.replace(wish, labeled=(*_canonical(wish.labeled), ALL))
    folds: list[Fold] = []
    bare = sorted(bare)
    left = [_untested(cases.task_of, test, settings.group_regex) for test in tests]
    kept = _untested(bare, itertools.chain(*tests), settings.group_regex)
    notes = _left_out(bare, kept, IMAGES_UNLABELED)
    if settings.test == "imagesTs":
        notes += _left_out(cases.task_of, left[0], "imagesTr")
    drawn = {
        label: [
            _draw(settings, cases.only(own), part, seed, label)
            for seed in wish.seeds
            for part, own in enumerate(left)
        ]
        for label in wish.labeled
    }
    for label in _distinct(drawn, notes):
        folds += drawn[label]
        notes += _whole_groups(drawn[label][0], cases, label)
    order = {seed: i for i, seed in enumerate(wish.seeds)}
    folds.sort(key=lambda fold: (order[fold.seed], fold.part))
    return Plan(settings, wish, tuple(tuple(test) for test in tests), tuple(folds), tuple(kept)), notes


def grow_plan(old: Plan, new: Plan) -> Plan:
    """Add what ``new`` has more; what ``old`` has keeps its fold.

    Raises:
        ConfigError: they are different benchmarks.
    """
    for field in dataclasses.fields(Settings):
        before, now = getattr(old.settings, field.name), getattr(new.settings, field.name)
        if before != now:
            raise ConfigError(
                f"The folder holds a benchmark with {field.name} {before}, not {now}. "
                "Name another folder with -o, or repeat what it was made with."
            )
    if old.tests != new.tests:
        raise ConfigError(
            "The test cases differ from those that the benchmark in this folder was made with: the dataset "
            "has changed. Name another folder with -o."
        )
    if old.bare != new.bare:
        more, less = set(new.bare) - set(old.bare), set(old.bare) - set(new.bare)
        raise ConfigError(
            f"{IMAGES_UNLABELED} has {len(more)} scan(s) more and {len(less)} less than when the benchmark "
            "in this folder was made, so new runs would not be comparable. Name another folder with -o."
        )
    known = {fold.key: fold for fold in old.folds}
    for fold in new.folds:
        if fold.key in known and known[fold.key] != fold:
            raise ConfigError(
                f"The cases of seed {fold.seed} with {fold.labeled} labels differ from those in this folder: "
                "the dataset has changed. Name another folder with -o."
            )
    added = tuple(fold for fold in new.folds if fold.key not in known)
    return Plan(old.settings, old.wish.joined(new.wish), old.tests, old.folds + added, old.bare)


def choose_tests(
    cases: Cases, text: str, folds: int, group_regex: str | None, images_ts: Iterable[str]
) -> list[list[str]]:
    """The test cases of each part.

    Args:
        cases: the labelled cases of the dataset.
        text: ``imagesTs``, a number of cases, a share, or identifiers with commas.
        folds: if not 0, this many disjoint test sets that cover all cases; ``text`` is ignored then.
        group_regex: names the patient in a case identifier.
        images_ts: cases of imagesTs that have a label file.

    Raises:
        DataError: the cases do not suffice, or are not there.
    """
    if folds:
        request = SplitRequest(seed=_TEST_SEED, folds=folds, group_regex=group_regex)
        return [fold["val"] for fold in make_splits(cases, request)]
    if text == "imagesTs":
        chosen = sorted(images_ts)
        if not chosen:
            raise DataError(
                "--test imagesTs: expected scans in imagesTs and their labels in labelsTs, found none that "
                "have both. Hold out labelled cases instead, for instance with --test 0.2."
            )
        return [chosen]
    try:
        wanted = parse_labeled(text)
    except ConfigError:
        return [_named_tests(cases, text, group_regex)]
    share = wanted / len(cases.task_of) if isinstance(wanted, int) else wanted
    if not 0 < share < 1:
        raise DataError(
            f"--test {text}: the dataset has {len(cases.task_of)} labelled cases, and some must remain to "
            "train on. Ask for fewer."
        )
    request = SplitRequest(seed=_TEST_SEED, val=share, group_regex=group_regex)
    return [make_splits(cases, request)[0]["val"]]


def _named_tests(cases: Cases, text: str, group_regex: str | None) -> list[str]:
    chosen = sorted({case for case in text.replace(",", " ").split() if case})
    unknown = [case for case in chosen if case not in cases.task_of]
    if unknown or not chosen:
        raise DataError(
            f"--test: expected 'imagesTs', a number, a share such as 0.2, or identifiers of labelled cases "
            f"({few(sorted(cases.task_of), 3)}), got '{text}'."
        )
    for group in group_cases(cases, group_regex):
        inside = set(group.cases) & set(chosen)
        if inside and len(inside) < len(group.cases):
            rest = ", ".join(case for case in group.cases if case not in inside)
            raise DataError(
                f"--test tears group '{group.key}' apart: {rest} would be trained on. "
                "Name all cases of a group."
            )
    return chosen


def _untested(cases: Iterable[str], test: Iterable[str], group_regex: str | None) -> list[str]:
    """Cases of no group that has a test case."""
    tested = {group_key(case, group_regex) for case in test}
    return [case for case in cases if group_key(case, group_regex) not in tested]


def _left_out(cases: Iterable[str], kept: Sequence[str], folder: str) -> list[str]:
    gone = sorted(set(cases) - set(kept))
    if not gone:
        return []
    return [
        f"{len(gone)} scan(s) of {folder} are left out, since they or their patients are tested: {few(gone)}."
    ]


def _whole_groups(fold: Fold, cases: Cases, labeled: str) -> list[str]:
    """What whole groups did not allow, said of the first fold for each number of labels."""
    if labeled == ALL:
        return []
    named = {"train": list(fold.train), "val": list(fold.val), UNLABELED: list(fold.unlabeled)}
    found = count_notes([named], cases, SplitRequest(labeled=parse_labeled(labeled)))
    return [f"--labeled {labeled}: {note.partition(', ')[2]}" for note in found]


def _draw(settings: Settings, cases: Cases, part: int, seed: int, labeled: str) -> Fold:
    request = SplitRequest(
        labeled=parse_labeled(labeled), seed=seed, val=settings.val, group_regex=settings.group_regex
    )
    (fold,) = make_splits(cases, request)
    return Fold(part, seed, labeled, tuple(fold["train"]), tuple(fold["val"]), tuple(fold[UNLABELED]))


def _canonical(labeled: Iterable[str]) -> list[str]:
    """``8``, ``0.1``: one text for each number, in order of appearance, without ``all``."""
    values = [parse_labeled(text) for text in labeled]  # 1 is a case, 1.0 all of them
    return list(dict.fromkeys(str(value) for value in values if value != 1.0 or isinstance(value, int)))


def _distinct(drawn: Mapping[str, Sequence[Fold]], notes: list[str]) -> list[str]:
    """Numbers of labels that give different cases, smallest first; ``all`` wins over what equals it."""
    kept: dict[tuple[tuple[str, ...], ...], str] = {}
    for label in [ALL, *(label for label in drawn if label != ALL)]:
        cases = tuple(fold.train for fold in drawn[label])
        if cases in kept:
            notes.append(f"{label} labels are the same cases as {kept[cases]}: done once.")
        else:
            kept[cases] = label
    return sorted(kept.values(), key=lambda label: sum(len(fold.train) for fold in drawn[label]))
