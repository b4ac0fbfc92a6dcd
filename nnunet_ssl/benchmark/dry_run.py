"""What a benchmark would do, as a table, and how long that would take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_ssl.benchmark.estimate import (
    TIMES_SUPERVISED,
    Budget,
    budget,
    clock,
    estimate,
    estimate_untried,
    seconds_of_done,
    seconds_per_update,
)
from nnunet_ssl.benchmark.plan import PSEUDO_LABELS, Plan, Run
from nnunet_ssl.benchmark.probe import is_available, seconds_of_update
from nnunet_ssl.benchmark.source import Source
from nnunet_ssl.benchmark.workplace import Workplace
from nnunet_ssl.tables import format_table


def describe(place: Workplace, plan: Plan, source: Source, plans: dict[str, Any], device: str) -> str:
    """All runs, and the time that those which are to do will take.

    Args:
        place: where they are or would be.
        plan: what is compared.
        source: the user's dataset.
        plans: content of its plans file.
        device: on which an update is tried out, if nothing else tells how long one takes.
    """
    runs, asked, settings = plan.runs(), budget(plans), place.settings
    todo = [r for r in runs if not place.is_done(r)]
    per_update = seconds_per_update(source.name, settings.plans, settings.configuration, asked[1])
    known = estimate(todo, seconds_of_done(place, runs), per_update, asked)
    if known is not None:
        time = f"about {clock(known[0])} ({known[1]})"
    elif is_available(device):
        tried = seconds_of_update(plans, settings.configuration, source.dataset_json, device)
        time = _untried(todo, tried, asked, device)
    else:
        time = f"unknown (no run is done, and without {device} here no update could be tried out)"
    sizes = [(len(fold.train), len(fold.unlabeled) + len(plan.bare)) for fold in plan.folds]
    tests = " + ".join(str(len(part)) for part in plan.tests)
    return (
        f"{overview(runs, place, sizes, asked)}\n"
        f"{len(runs)} runs, {len(runs) - len(todo)} done; {tests} test cases; folder {place.folder}\n"
        f"Time for the rest, one after another: {time}."
    )


def _untried(todo: Sequence[Run], tried: float, asked: Budget, device: str) -> str:
    least, most = map(clock, estimate_untried(todo, tried, asked))
    update = f"a supervised update was tried out on {device}: {tried:.2g} s"
    rest = "without loading, validation and prediction"
    if least == most:  # supervised runs alone
        return f"about {least} ({update}; {rest})"
    times = " to ".join(map(str, TIMES_SUPERVISED))
    return f"{least} to {most} ({update}; with unlabelled patches one takes {times} times as long; {rest})"


def overview(
    runs: Sequence[Run], place: Workplace, sizes: Sequence[tuple[int, int]], plans_budget: Budget
) -> str:
    """The table of a dry run.

    Args:
        runs: all runs.
        place: where they are or would be.
        sizes: labelled and unlabelled cases of each fold.
        plans_budget: see ``budget``.
    """
    epochs, per_epoch = plans_budget
    rows = []
    for run in runs:
        updates = epochs * per_epoch * (2 if run.method == PSEUDO_LABELS else 1)
        state = "done" if place.is_done(run) else "to do"
        part = [run.part] if run.in_parts else []
        rows.append([run.method, run.labeled, *sizes[run.fold], run.seed, *part, updates, state])
    header = ["method", "labels", "labelled", "unlabelled", "seed"]
    header += ["part"] if any(run.in_parts for run in runs) else []
    return format_table(rows, [*header, "updates", "state"])
