"""What one must know to repeat a benchmark: data, budget, options, versions, and the command itself."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_ssl.benchmark.estimate import budget, clock
from nnunet_ssl.benchmark.plan import ALL, Plan
from nnunet_ssl.conversion.plans import resolve_configuration
from nnunet_ssl.json_files import read_json
from nnunet_ssl.report.results import Results, short_name
from nnunet_ssl.tasks import BLOCK

_PLANS = ("spacing", "patch_size", "batch_size", "batch_dice")
_NETWORK = ("features_per_stage", "n_conv_per_stage", "n_blocks_per_stage", "strides")

Row = tuple[str, str]


def facts(results: Results) -> list[Row]:
    """Name and value of each."""
    settings, plan = results.place.settings, results.plan
    plans = read_json(results.place.preprocessed / f"{settings.plans}.json")
    epochs, updates = budget(plans)
    tests = " + ".join(str(len(part)) for part in plan.tests)
    how = f"{settings.folds} disjoint test sets" if settings.folds else f"--test {_shortened(settings.test)}"
    rows = [
        ("dataset", settings.dataset),
        ("configuration, plans", f"{settings.configuration}, {settings.plans}"),
        ("network and patches", _listed(_network(plans, settings.configuration))),
        ("options in the plans", _listed(plans.get(BLOCK, {}).get("options", {})) or "none"),
        ("budget of every training", f"{epochs} epochs of {updates} updates, final checkpoint"),
        (
            "test cases",
            f"{tests} ({how}), in no training set, not among the unlabelled, not in the validation",
        ),
        ("test-time mirroring", "yes" if settings.mirroring else "no"),
        ("scans in imagesUn", str(len(plan.bare))),
    ]
    if settings.group_regex:
        rows.append(("cases kept together by", settings.group_regex))
    rows.append(("median time of a run", _times(results)))
    kinds = {_listed(done["versions"]) for done in results.done.values()}
    rows.append(("versions", "; ".join(sorted(kinds))))
    gpus = {training["gpu"] for training in results.trainings.values() if training.get("gpu")}
    rows.append(("GPU", ", ".join(sorted(gpus)) or "none"))
    if results.watches_hidden_labels:
        rows.append(("hidden labels", "read for the curve of the pseudo-labels' Dice alone"))
    return rows


def command(plan: Plan) -> str:
    """The command that makes this benchmark, but for device and worker processes."""
    settings, wish = plan.settings, plan.wish
    argv = ["nnUNetv2_ssl", "benchmark", "-d", settings.dataset, "-c", settings.configuration]
    argv += ["-p", settings.plans]
    argv += ["--trainers", *wish.trainers] if wish.trainers else []
    argv += ["--pseudo-labels"] if wish.pseudo_labels else []
    numbers = [n for n in wish.labeled if n != ALL]  # without any, imagesUn alone is unlabelled
    argv += ["--labeled", *numbers] if numbers else []
    argv += ["--seeds", *map(str, wish.seeds)]
    argv += ["--folds", str(settings.folds)] if settings.folds else ["--test", settings.test]
    argv += ["--val", str(settings.val)]
    argv += ["--group-regex", settings.group_regex] if settings.group_regex else []
    argv += [] if settings.mirroring else ["--disable_tta"]
    return shlex.join([*argv, "-o", "BENCHMARK"])


def options_by_method(results: Results) -> list[Row]:
    """Every option that each method was trained with; more than one row where its runs differ."""
    rows: dict[Row, None] = {}
    for run, training in results.trainings.items():
        options = {k: v for k, v in training.get("options", {}).items() if k != "seed"}
        if options:
            rows[short_name(run.method), _listed(options)] = None
    return list(rows)


def _network(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    entry = resolve_configuration(plans, configuration)
    kwargs = entry.get("architecture", {}).get("arch_kwargs", {})
    found = {key: entry[key] for key in _PLANS if key in entry}
    return {**found, **{key: kwargs[key] for key in _NETWORK if key in kwargs}}


def _times(results: Results) -> str:
    seconds: dict[str, list[float]] = {}
    for run, done in results.done.items():
        seconds.setdefault(run.method, []).append(sum(done["seconds"].values()))
    return ", ".join(f"{short_name(m)} {clock(statistics.median(took))}" for m, took in seconds.items())


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _plain(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(_plain(v) if not isinstance(v, list) else "x".join(map(str, v)) for v in value)
    return str(value)


def _shortened(test: str) -> str:
    return test if len(test) <= 40 else f"{test[:40].rsplit(',', 1)[0]},..."
