"""Choose which cases keep their labels: ``splits_final.json`` with a third key, ``unlabeled``, in each fold.

nnU-Net ignores that key, so the stock trainer on the same fold trains on the same labelled cases. Every
choice takes the first groups of an order made from a hash of seed and group name. That makes the labelled
sets nested, leaves the validation alone when ``--labeled`` changes, and gives the same files everywhere.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_ssl.data.dataset_json import existing_folder, find_dataset, read_dataset_json, training_cases
from nnunet_ssl.data.layout import SPLITS_FILE, UNLABELED
from nnunet_ssl.errors import ConfigError, DataError, few
from nnunet_ssl.json_files import read_json, write_json_atomically
from nnunet_ssl.tasks import TaskTable

Fold = dict[str, list[str]]


@dataclass(frozen=True)
class SplitRequest:
    """What ``nnUNetv2_ssl split`` was asked for.

    Attributes:
        labeled: labelled cases of each task (int), or their share of the training cases (float; 1.0 is all).
        labeled_cases: exactly these cases stay labelled; ``labeled`` is ignored then.
        seed: another seed gives another split.
        folds: folds of the cross-validation.
        val: share of the cases in one fixed validation set, instead of a cross-validation.
        group_regex: its first group, or the whole match, names the patient in a case identifier.
    """

    labeled: int | float = 1.0
    labeled_cases: tuple[str, ...] = ()
    seed: int = 0
    folds: int = 5
    val: float | None = None
    group_regex: str | None = None

    def __post_init__(self) -> None:
        if self.val is None and self.folds < 2:
            raise ConfigError(
                f"--folds: expected at least 2, got {self.folds}. For one hold-out fold use --val 0.2."
            )
        if self.val is not None and not 0 < self.val < 1:
            raise ConfigError(f"--val: expected a share between 0 and 1, got {self.val}.")


@dataclass(frozen=True)
class Cases:
    """The labelled cases of a dataset.

    Attributes:
        task_of: index of the task of each case.
        task_names: names of the tasks.
    """

    task_of: Mapping[str, int]
    task_names: Sequence[str]

    def only(self, cases: Iterable[str]) -> Cases:
        """Some of them."""
        return Cases({case: self.task_of[case] for case in cases}, self.task_names)


@dataclass(frozen=True)
class Group:
    """Cases that stay together, one patient's say, and how many of them belong to each task."""

    key: str
    cases: tuple[str, ...]
    counts: Mapping[int, int]


def parse_labeled(text: str) -> int | float:
    """Read ``--labeled``: ``8`` (cases), ``0.1`` or ``1/16`` (share), ``all`` or ``1.0``.

    Raises:
        ConfigError: the text is none of these.
    """
    if text.strip().lower() == "all":
        return 1.0
    try:
        value = int(text) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else _share(text)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if (isinstance(value, int) and value >= 1) or (isinstance(value, float) and 0 < value <= 1):
        return value
    raise ConfigError(
        "--labeled: expected a number of cases (1 or more), a share of the training cases such as 0.1 or "
        f"1/16, or 'all', got '{text}'."
    )


def _share(text: str) -> float:
    """``0.1`` or ``1/16``."""
    part, _, whole = text.partition("/")
    return int(part) / int(whole) if whole else float(text)


def parse_case_list(text: str) -> tuple[str, ...]:
    """Read ``--labeled-cases``: identifiers with commas, or a file of identifiers (lines or commas).

    Raises:
        ConfigError: there is no identifier.
    """
    if Path(text).is_file():
        text = Path(text).read_text(encoding="utf-8")
    cases = tuple(dict.fromkeys(case for case in re.split(r"[\s,]+", text) if case))
    if not cases:
        raise ConfigError(
            "--labeled-cases: expected identifiers such as la_000,la_001 or a file of them, got none."
        )
    return cases


def load_cases(id_or_name: int | str) -> Cases:
    """The labelled cases of a dataset: from ``nnUNet_raw``, or from ``gt_segmentations`` where raw is absent.

    Raises:
        DataError: there is no such dataset or it has no labelled case.
        TaskError: a case belongs to no task.
    """
    name = find_dataset(id_or_name)
    for root in ("raw", "preprocessed"):
        folder = existing_folder(root, name)
        if folder is None or not (folder / "dataset.json").is_file():
            continue
        dataset_json = read_dataset_json(folder)
        ending = dataset_json["file_ending"]
        if root == "raw":
            cases = sorted(training_cases(folder, dataset_json))
        else:
            cases = sorted(p.name[: -len(ending)] for p in folder.glob(f"gt_segmentations/*{ending}"))
        if cases:
            table = TaskTable.from_dataset_json(dataset_json)
            return Cases({case: table.task_of(case) for case in cases}, [task.name for task in table.tasks])
    raise DataError(
        f"Dataset {name} has no labelled cases: expected images in nnUNet_raw/{name}/imagesTr or label files "
        f"in nnUNet_preprocessed/{name}/gt_segmentations."
    )


def make_splits(cases: Cases, request: SplitRequest) -> list[Fold]:
    """Make the folds, each with sorted case identifiers in ``train`` (labelled), ``val`` and ``unlabeled``.

    Args:
        cases: the labelled cases of the dataset.
        request: what was asked for.

    Raises:
        DataError: the request cannot be met by these cases.
        ConfigError: the group regex is no regular expression.
    """
    _check_labeled_cases(request, cases)
    groups = group_cases(cases, request.group_regex)
    _check_whole_groups(request, groups)
    folds = []
    for index, val in enumerate(_validation_sets(groups, request, cases)):
        train = [group for group in groups if group.key not in val]
        labeled = set(request.labeled_cases) or _labeled(train, index, request, cases)
        folds.append(
            {
                "train": sorted(labeled),
                "val": sorted(c for group in groups if group.key in val for c in group.cases),
                UNLABELED: sorted(c for group in train for c in group.cases if c not in labeled),
            }
        )
    return folds


def make_folds_of_shares(cases: Cases, request: SplitRequest, labeled: Sequence[int | float]) -> list[Fold]:
    """One fold for each number of labelled cases: nested labelled sets and one validation set for all.

    Raises:
        ConfigError: several numbers, but no fixed validation set.
        DataError: the request cannot be met by these cases.
    """
    if len(labeled) > 1 and request.val is None:
        raise ConfigError(
            f"--labeled: {len(labeled)} numbers make one fold each, on the same validation cases. Say how "
            "many with --val 0.2, or give one number."
        )
    return [fold for n in labeled for fold in make_splits(cases, replace(request, labeled=n))]


def group_cases(cases: Cases, regex: str | None) -> list[Group]:
    """Gather the cases that belong together; without ``regex`` each case is alone.

    Raises:
        ConfigError: ``regex`` is no regular expression.
        DataError: ``regex`` does not match a case.
    """
    members: dict[str, list[str]] = {}
    for case in sorted(cases.task_of):
        members.setdefault(group_key(case, regex), []).append(case)
    return [Group(key, tuple(ids), Counter(cases.task_of[c] for c in ids)) for key, ids in members.items()]


def count_rows(folds: Sequence[Fold], cases: Cases) -> list[tuple[int, str, int, int, int]]:
    """Rows of fold, task, labelled, unlabelled and validation cases."""
    rows = []
    for index, fold in enumerate(folds):
        counts = {key: Counter(cases.task_of[c] for c in fold[key]) for key in ("train", UNLABELED, "val")}
        for task, name in enumerate(cases.task_names):
            rows.append((index, name, counts["train"][task], counts[UNLABELED][task], counts["val"][task]))
    return rows


def count_notes(
    folds: Sequence[Fold], cases: Cases, request: SplitRequest, labeled: Sequence[int | float] = ()
) -> list[str]:
    """Sentences on the counts that whole groups did not allow to be met.

    Args:
        folds: what came out.
        cases: the labelled cases.
        request: what was asked for.
        labeled: what each fold was asked to have labelled, where folds differ in that.
    """
    asked = labeled if len(labeled) > 1 else [request.labeled] * len(folds)
    if request.labeled_cases:
        return []
    notes = []
    for index, task, found, unlabeled, _ in count_rows(folds, cases):
        wanted = _target(asked[index], found + unlabeled)
        if found != wanted:
            notes.append(
                f"Fold {index}, {task}: {found} labelled cases, not {wanted}, since groups stay whole."
            )
    return notes


def write_splits(folder: Path, folds: Sequence[Fold]) -> tuple[Path, Path | None, bool]:
    """Write ``splits_final.json`` into ``folder``; another one that is there is copied to ``.bak-N`` first.

    Returns:
        The file, its backup if one was made, and whether the file changed.
    """
    path = folder / SPLITS_FILE
    folder.mkdir(parents=True, exist_ok=True)
    backup = None
    if path.exists():
        if _same_json(path, folds):
            return path, None, False
        backup = next(p for n in range(1, 10**6) if not (p := folder / f"{SPLITS_FILE}.bak-{n}").exists())
        shutil.copy2(path, backup)
    write_json_atomically(path, list(folds))
    return path, backup, True


def _same_json(path: Path, folds: Sequence[Fold]) -> bool:
    try:
        return bool(read_json(path) == list(folds))
    except DataError:  # a broken file is backed up and replaced like any other
        return False


def _check_labeled_cases(request: SplitRequest, cases: Cases) -> None:
    if not request.labeled_cases:
        return
    unknown = [case for case in request.labeled_cases if case not in cases.task_of]
    if unknown:
        known = few(sorted(cases.task_of))
        raise DataError(
            f"--labeled-cases: {', '.join(unknown)} is not among the {len(cases.task_of)} labelled cases of "
            f"the dataset ({known}). Correct the identifiers (or the file name, if you meant a file)."
        )
    present = {cases.task_of[case] for case in request.labeled_cases}
    absent = [name for task, name in enumerate(cases.task_names) if task not in present]
    if absent:
        raise DataError(
            f"--labeled-cases names no case of task {', '.join(absent)}. "
            "Every task needs at least one labelled case."
        )
    if request.val is None:
        raise DataError(
            f"--labeled-cases: {request.labeled_cases[0]} falls in the validation of one of the "
            f"{request.folds} folds, since a cross-validation validates every case once. Add --val 0.2: it "
            "draws one validation set from the other cases."
        )


def _check_whole_groups(request: SplitRequest, groups: Iterable[Group]) -> None:
    wanted = set(request.labeled_cases)
    for group in groups:
        inside = wanted.intersection(group.cases)
        if inside and len(inside) < len(group.cases):
            rest = ", ".join(case for case in group.cases if case not in wanted)
            raise DataError(
                f"--labeled-cases tears group '{group.key}' apart: it names {', '.join(sorted(inside))} but "
                f"not {rest}. Name all cases of a group or none."
            )


def group_key(case: str, regex: str | None) -> str:
    """Which group a case belongs to; without ``regex`` its own.

    Raises:
        ConfigError: ``regex`` is no regular expression.
        DataError: ``regex`` does not match the case.
    """
    if regex is None:
        return case
    try:
        match = re.search(regex, case)
    except re.error as error:
        raise ConfigError(f"--group-regex: '{regex}' is not a regular expression: {error}.") from error
    key = match and (match[1] if match.re.groups else match[0])
    if not key:
        raise DataError(f"--group-regex: '{regex}' finds no group in case '{case}'. Let it match every case.")
    return str(key)


def _validation_sets(groups: Sequence[Group], request: SplitRequest, cases: Cases) -> list[set[str]]:
    """Group keys of each fold's validation set; the number of labelled cases has no say in them."""
    ordered = _shuffled(groups, request.seed, "validation")
    if request.val is not None:
        return [_hold_out(ordered, request, cases)]
    for task, name in enumerate(cases.task_names):
        found = sum(task in group.counts for group in groups)
        if found < request.folds:
            raise DataError(
                f"Task '{name}' has {found} groups of cases, fewer than the {request.folds} folds asked for. "
                "Use fewer --folds, or --val for one hold-out fold."
            )
    return _deal(ordered, request.folds)


def _hold_out(ordered: Sequence[Group], request: SplitRequest, cases: Cases) -> set[str]:
    assert request.val is not None
    fixed = set(request.labeled_cases)
    val: set[str] = set()
    for task, name in enumerate(cases.task_names):
        mine = [group for group in ordered if task in group.counts]
        total = sum(group.counts[task] for group in mine)
        # One group must remain to train on, unless the labelled cases are fixed: these remain.
        free = [group for group in mine if fixed.isdisjoint(group.cases)] if fixed else mine[:-1]
        if not free:
            raise DataError(
                f"Task '{name}' has {len(mine)} group(s) of cases, too few to hold one out for validation "
                "beside those to train on. Add cases, or name fewer --labeled-cases."
            )
        val.update(group.key for group in _nearest_prefix(free, task, _round(request.val * total)))
    return val


def _deal(ordered: Iterable[Group], folds: int) -> list[set[str]]:
    """Give each group to the fold that holds fewest cases of its tasks, then fewest at all."""
    sets: list[set[str]] = [set() for _ in range(folds)]
    held: list[Counter[int]] = [Counter() for _ in range(folds)]
    for group in ordered:
        fold = min(range(folds), key=lambda f: (sum(held[f][t] for t in group.counts), held[f].total(), f))
        sets[fold].add(group.key)
        held[fold].update(group.counts)
    return sets


def _labeled(train: Sequence[Group], fold: int, request: SplitRequest, cases: Cases) -> set[str]:
    """Labelled cases of one fold; each fold has its own order, lest all train on the same few cases."""
    ordered = _shuffled(train, request.seed, f"labeled {fold}")
    labeled: set[str] = set()
    for task, name in enumerate(cases.task_names):
        mine = [group for group in ordered if task in group.counts]
        total = sum(group.counts[task] for group in mine)
        wanted = _checked_target(request.labeled, total, f"task '{name}' in fold {fold}")
        labeled.update(case for group in _nearest_prefix(mine, task, wanted) for case in group.cases)
    return labeled


def _checked_target(labeled: int | float, total: int, where: str) -> int:
    wanted = _target(labeled, total)
    if wanted > total or total == 0:
        raise DataError(
            f"--labeled {labeled}: {where} has {total} training cases (the others are its validation). "
            "Ask for at most that many, or for 'all'."
        )
    if wanted == 0:
        raise DataError(
            f"--labeled {labeled}: that share of the {total} training cases of {where} is no case at all. "
            f"Ask for at least {1 / total:.3g} or for a number of cases."
        )
    return wanted


def _target(labeled: int | float, total: int) -> int:
    return labeled if isinstance(labeled, int) else _round(labeled * total)


def _round(value: float) -> int:
    return math.floor(value + 0.5)  # round() takes halves to the even side


def _nearest_prefix(groups: Sequence[Group], task: int, wanted: int) -> Sequence[Group]:
    """The first groups, at least one, whose cases of ``task`` come nearest to ``wanted``; the fewer of two.

    Taking first groups of a fixed order nests the choices: a larger number never drops a group.
    """
    best, taken, count = 1, 0, 0
    error: float = math.inf
    for group in groups:
        taken, count = taken + 1, count + group.counts[task]
        if abs(count - wanted) < error:
            best, error = taken, abs(count - wanted)
    return groups[:best]


def _shuffled(groups: Iterable[Group], seed: int, purpose: str) -> list[Group]:
    """An order that looks random and never changes: by a hash, not by a generator whose stream may change."""

    def order(group: Group) -> bytes:
        return hashlib.sha256(f"{seed}/{purpose}/{group.key}".encode()).digest()

    return sorted(groups, key=order)
