"""Compare trainers on a dataset of yours: how much do unlabelled scans help, with how many labels?

Every trainer is trained with each number of labelled cases and each seed; the supervised baseline and its
upper bound, all labels, are always among them. All use the same plans, so the same number of updates, and the
final checkpoint is judged on test cases that no training sees: neither labelled, nor unlabelled, nor in the
online validation. Your splits_final.json and results are left alone: the benchmark has a folder of its own.

Each run is stock nnU-Net commands. A run that is done is skipped, one that was interrupted goes on, one that
fails does not keep the others. The same command with more trainers, labels or seeds adds to a benchmark.
Make plans with a budget that you can afford first ('nnUNetv2_ssl configure'), and look with --dry-run.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ssl.errors import ConfigError, NNUNetSSLError

if TYPE_CHECKING:
    from nnunet_ssl.benchmark.plan import Plan, Settings, Wish
    from nnunet_ssl.benchmark.source import Source
    from nnunet_ssl.benchmark.steps import Machine
    from nnunet_ssl.benchmark.workplace import Workplace

HELP = "train and compare: trainers x numbers of labels x seeds on one dataset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``nnUNetv2_ssl benchmark``."""
    parser.add_argument("-d", required=True, metavar="ID", help="dataset number or name")
    parser.add_argument("-c", required=True, metavar="CONFIG", help="configuration")
    parser.add_argument(
        "-p", default="nnUNetPlans", metavar="PLANS", help="plans, with the budget (default: %(default)s)"
    )
    parser.add_argument(
        "--trainers", nargs="+", default=[], metavar="TRAINER", help="to compare with the supervised baseline"
    )
    parser.add_argument(
        "--pseudo-labels",
        action="store_true",
        help="also the baseline that trains, predicts the unlabelled cases and trains again on labels and "
        "predictions, twice the updates in all",
    )
    parser.add_argument(
        "--labeled",
        nargs="+",
        default=[],
        metavar="N|FRACTION",
        help="labelled cases of each task, or shares of the training cases; smaller sets lie within larger; "
        "may be left out if there are scans in imagesUn",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="of labelled cases and training (0)"
    )
    tests = parser.add_mutually_exclusive_group()
    tests.add_argument(
        "--test",
        metavar="WHICH",
        help="test cases: imagesTs (with labelsTs), a number or share of the labelled cases, or identifiers "
        "with commas (default: imagesTs if it has labels, else 0.2)",
    )
    tests.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="K",
        help="for few cases: K disjoint test sets that cover all cases, so K times the runs",
    )
    parser.add_argument(
        "--val",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the training cases for the online validation, which decides nothing (0.1)",
    )
    parser.add_argument("--group-regex", metavar="RE", help="keeps a patient's cases together; see split")
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="default: nnUNet_results/benchmarks/...")
    parser.add_argument(
        "-device", choices=("cuda", "cpu", "mps"), help="default: cuda if there is one, and for SLURM"
    )
    parser.add_argument("-num_gpus", type=int, default=1, metavar="N", help="for one training (1)")
    parser.add_argument(
        "-np", type=int, default=3, metavar="N", help="worker processes of each command (3); 0 for none"
    )
    parser.add_argument("--disable_tta", action="store_true", help="predict without mirroring: faster")
    parser.add_argument("--dry-run", action="store_true", help="list the runs with an estimate, and stop")
    parser.add_argument(
        "--slurm",
        nargs="*",
        metavar="KEY=VALUE",
        help="submit to SLURM instead of running here, for instance partition=gpu gpus_per_node=1 "
        "cpus_per_task=8 mem_gb=64 timeout_min=2880; cluster=local tries it out on this machine",
    )


def run(args: argparse.Namespace) -> None:
    """Prepare the folder and do, submit or list the runs.

    Raises:
        ConfigError: an argument makes no sense.
        DataError: the dataset lacks something.
        RunsFailedError: a run failed.
    """
    from nnunet_ssl.benchmark import cluster
    from nnunet_ssl.benchmark.dry_run import describe
    from nnunet_ssl.benchmark.execute import do_runs
    from nnunet_ssl.benchmark.references import check_references
    from nnunet_ssl.benchmark.source import load_source
    from nnunet_ssl.benchmark.steps import Steps
    from nnunet_ssl.benchmark.workplace import Workplace, check, prepare
    from nnunet_ssl.commands.configure import known_configs
    from nnunet_ssl.locks import locked
    from nnunet_ssl.steps import run_steps

    source = load_source(args.d)
    settings, wish = _asked(args, source)
    folder = (args.o or _default_folder(settings)).resolve()
    place = Workplace(folder, settings)
    plan, notes = _planned(place, settings, wish, source)
    check_trainers(plan, source)
    plans, _ = check(place, plan, source)
    notes += check_references(plan, source, args.np)
    for note in notes:
        print(note)
    jobs = None if args.slurm is None else cluster.parse_parameters(args.slurm)
    machine = _machine(args, elsewhere=jobs is not None and jobs[0] == "slurm")
    if args.dry_run:
        print(describe(place, plan, source, plans, machine.device))
        return
    if jobs is not None:
        cluster.check_installed()
    with locked(folder, wait=True) as lock:
        plan, _ = _planned(place, settings, wish, source)  # another process may have added to it
        prepare(place, plan, source, known_configs())
        steps = Steps(place, plan, source, machine)
        run_steps(steps.before_all(), folder / "runs" / "before_all", place.environment, lock)
    todo = [r for r in plan.runs() if not place.is_done(r)]
    report = shlex.join(["nnUNetv2_ssl", "report", "-i", str(folder), "-o", str(folder / "report")])
    print(f"{len(plan.runs()) - len(todo)} of {len(plan.runs())} runs are done; folder {folder}")
    if jobs is None:
        left = len(do_runs(steps, todo))
        said = f"Done, but for {left} run(s) of another process. So far" if left else "All done. The answer"
        print(f"\n{said}: {report}")
        return
    submitted = cluster.submit(steps, todo, folder / "cluster", *jobs)
    for name, runs, _ in submitted:
        print(f"job {name}: {', '.join(r.name for r in runs)}")
    if jobs[0] != "slurm":  # nothing outlives this process
        cluster.wait_for(submitted)
    print(f"When they are done: {report}")


def check_trainers(plan: Plan, source: Source) -> None:
    """Refuse what every run of a trainer would refuse, and trainers that do not train as the plans say.

    Ours read the plans' options; ``nnUNetTrainer`` does what they say where they say what it always does.

    Raises:
        ConfigError: a trainer does not exist, has a budget of its own, or cannot train the configuration.
        TaskError: a trainer needs the task of a scan in ``imagesUn`` that bears no task's prefix.
    """
    from nnunet_ssl.benchmark.plan import BASELINE
    from nnunet_ssl.conversion.plans import read_plans
    from nnunet_ssl.data.dataset_json import read_dataset_json
    from nnunet_ssl.training.adapter import SSLTrainer
    from nnunet_ssl.training.checks import check_trainable
    from nnunet_ssl.training.find import find_trainer

    settings = plan.settings
    plans = read_plans(source.preprocessed, settings.plans)
    dataset_json = read_dataset_json(source.preprocessed)
    for name in (BASELINE, *plan.wish.trainers):
        trainer = find_trainer(name)
        if issubclass(trainer, SSLTrainer):
            check_trainable(trainer, plans, settings.configuration, dataset_json, plan.bare)
        else:
            _check_other_trainer(name, plans, settings.plans)


def _check_other_trainer(name: str, plans: Mapping[str, Any], plans_name: str) -> None:
    from nnunet_ssl.tasks import BLOCK

    if name != "nnUNetTrainer":
        raise ConfigError(
            "--trainers: expected trainers of nnunet_ssl, which read budget and options from the plans, "
            f"got {name}, which has its own, so it would not be trained as the others. Leave it out."
        )
    options = plans.get(BLOCK, {}).get("options", {})
    ignored = ", ".join(f"{key}={value}" for key, value in _not_stock(options).items())
    if ignored:
        raise ConfigError(
            f"--trainers: {name} ignores options of {plans_name} ({ignored}), so it would not be trained as "
            "the others. Leave it out: the baseline is the same training, with these options."
        )


def _not_stock(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by which every training, the supervised one as well, differs from stock nnU-Net's."""
    from nnunet_ssl.config import FREE_OPTIONS, TrainingConfig

    stock = dataclasses.asdict(TrainingConfig())
    return {k: v for k, v in options.items() if k not in FREE_OPTIONS and v != stock.get(k, v)}


def _asked(args: argparse.Namespace, source: Source) -> tuple[Settings, Wish]:
    from nnunet_ssl.benchmark.plan import Settings, Wish
    from nnunet_ssl.config import TrainingConfig

    for seed in args.seeds:
        TrainingConfig(seed=seed)  # raises what is wrong with it
    if args.folds < 0 or args.folds == 1:
        raise ConfigError(f"--folds: expected at least 2 test sets, got {args.folds}.")
    test = args.test or ("imagesTs" if source.test and not args.folds else "0.2")
    settings = Settings(
        source.name,
        args.c,
        args.p,
        "" if args.folds else test,
        args.folds,
        args.val,
        args.group_regex,
        mirroring=not args.disable_tta,
    )
    return settings, Wish(tuple(args.trainers), tuple(args.labeled), tuple(args.seeds), args.pseudo_labels)


def _planned(place: Workplace, settings: Settings, wish: Wish, source: Source) -> tuple[Plan, list[str]]:
    """The plan, grown from the one that is in the folder if there is one."""
    from nnunet_ssl.benchmark.draw import choose_tests, grow_plan, make_plan
    from nnunet_ssl.benchmark.plan import ALL
    from nnunet_ssl.benchmark.workplace import PLAN_FILE, read_benchmark
    from nnunet_ssl.conversion.plans import read_plans, resolve_configuration
    from nnunet_ssl.conversion.split import Cases

    resolve_configuration(read_plans(source.preprocessed, settings.plans), settings.configuration)
    table = source.tasks
    cases = Cases({c: table.task_of(c) for c in sorted(source.training)}, [t.name for t in table.tasks])
    old = read_benchmark(place.folder)[1] if (place.folder / PLAN_FILE).is_file() else None
    _check_folder(place.folder, old is not None)
    wish = wish if old is None else old.wish.joined(wish)
    tests = choose_tests(cases, settings.test, settings.folds, settings.group_regex, source.test)
    plan, notes = make_plan(settings, wish, cases, tests, source.bare)
    if plan.wish.labeled == (ALL,) and not source.bare:
        raise ConfigError(
            "--labeled: expected a number of labelled cases, such as --labeled 4 8 0.1, found none. Without "
            "one, and without scans in imagesUn, nothing is unlabelled."
        )
    return (plan if old is None else grow_plan(old, plan)), notes


def _check_folder(folder: Path, is_benchmark: bool) -> None:
    from nnunet_ssl.locks import LOCK

    if not is_benchmark and folder.is_dir() and any(file.name != LOCK for file in folder.iterdir()):
        raise ConfigError(f"-o: {folder} holds other files. Name a new or empty folder, or a benchmark's.")


def _default_folder(settings: Settings) -> Path:
    results = os.environ.get("nnUNet_results")
    if not results:
        raise ConfigError("Name a folder with -o, or set nnUNet_results.")
    return Path(results) / "benchmarks" / f"{settings.dataset}__{settings.plans}__{settings.configuration}"


def _machine(args: argparse.Namespace, elsewhere: bool) -> Machine:
    """How commands are run; nodes of a cluster have the GPU that a login node lacks."""
    import torch

    from nnunet_ssl.benchmark.steps import Machine

    if args.np < 0 or args.num_gpus < 1:
        raise ConfigError("expected -np 0 or more and -num_gpus 1 or more.")
    device = args.device or ("cuda" if elsewhere or torch.cuda.is_available() else "cpu")
    if args.num_gpus > 1 and device != "cuda":
        raise NNUNetSSLError(f"-num_gpus {args.num_gpus} needs -device cuda, not {device}.")
    return Machine(device, args.num_gpus, args.np)
