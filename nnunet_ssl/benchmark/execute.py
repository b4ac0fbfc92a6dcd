"""Do the runs of a benchmark: each once, each from where it stopped, one failure does not end the others."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Sequence
from importlib import metadata

from nnunet_ssl.benchmark.plan import BASELINE, PSEUDO_LABELS, Run
from nnunet_ssl.benchmark.steps import Steps
from nnunet_ssl.benchmark.workplace import DONE, FAILED
from nnunet_ssl.errors import DataError, NNUNetSSLError
from nnunet_ssl.inference.sentences import WISHES
from nnunet_ssl.json_files import write_json_atomically
from nnunet_ssl.locks import BusyError, locked
from nnunet_ssl.steps import run_steps

_PACKAGES = ("nnunet-ssl", "nnunetv2", "torch", "numpy", "scipy")


class RunFailedError(NNUNetSSLError):
    """A step of a run failed."""


class RunsFailedError(NNUNetSSLError):
    """Some runs of a benchmark failed; the message names them and their logs."""


def do_runs(steps: Steps, runs: Sequence[Run]) -> list[Run]:
    """Do every run that is not done; a failed one is reported at the end.

    Runs that another process is at, and those that build on them, are left for the end and tried once more.

    Returns:
        Runs that were left to another process all the same.

    Raises:
        RunsFailedError: at least one run failed. The others are done.
    """
    failures: list[str] = []
    left = _try_runs(steps, runs, failures)
    left = _try_runs(steps, left, failures) if len(left) < len(runs) else left
    if left:
        names = "\n  ".join(run.name for run in left)
        print(f"\nLeft to another process that is at them, or builds on what it does:\n  {names}", flush=True)
    if failures:
        listed = "\n  ".join(failures)
        raise RunsFailedError(
            f"{len(failures)} of {len(runs)} run(s) failed:\n  {listed}\n"
            "The others are done. Correct the cause and give the same command again: it goes on from there."
        )
    return left


def _try_runs(steps: Steps, runs: Sequence[Run], failures: list[str]) -> list[Run]:
    """Do the runs, note what failed, and return those that another process keeps from being done."""
    busy: list[Run] = []
    for number, run in enumerate(runs, 1):
        print(f"\n=== Run {number} of {len(runs)}: {run.name}", flush=True)
        if steps.plan.baseline_of(run) in busy and run.method == PSEUDO_LABELS:
            print("    later: the run that it builds on is being done", flush=True)
            busy.append(run)
            continue
        try:
            do_run(steps, run)
        except BusyError as error:
            print(f"    later: {error}", flush=True)
            busy.append(run)
        except Exception as error:  # whatever went wrong in one run, the others go on
            print(f"FAILED: {error}", flush=True)
            lines = str(error).splitlines() or [type(error).__name__]
            failures.append(f"{run.name}: {lines[0]} (logs in {steps.place.run(run)}/logs)")
    return busy


def do_run(steps: Steps, run: Run) -> None:
    """Do one run, unless it is done; the marker is written last.

    Raises:
        DataError: it builds on a run that is not done, or its folder cannot be locked.
        BusyError: another process is at it.
        NNUNetSSLError: a step failed; ``failed.json`` then says which.
    """
    place = steps.place
    if place.is_done(run):
        print("    done before", flush=True)
        return
    baseline = steps.plan.baseline_of(run)
    if run.method == PSEUDO_LABELS and not place.is_done(baseline):
        raise DataError(f"it starts from {baseline.name}, which is not done. Do that run first.")
    folder = place.run(run)
    with locked(folder) as lock:
        (folder / FAILED).unlink(missing_ok=True)  # of an earlier try
        try:
            todo = steps.of(run)
            # What the user asks for in his shell is nothing that the benchmark asks for
            nothing = dict.fromkeys(WISHES, "")
            seconds = run_steps(todo, folder, {**nothing, **place.environment}, lock)
        except Exception as error:
            message = _message(error)
            write_json_atomically(folder / FAILED, {"run": run.name, "error": message})
            raise RunFailedError(message) from error
        done = {
            "run": run.name,
            "commands": [step.text for step in todo],
            "seconds": {
                f"{n} {s.title}": took for n, (s, took) in enumerate(zip(todo, seconds, strict=True), 1)
            },
            "versions": versions(),
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_json_atomically(folder / DONE, done)


def order_for_jobs(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that may be done independently of each other: what builds on a baseline follows it in one job."""
    jobs: list[list[Run]] = []
    for run in runs:
        before = [job for job in jobs if job[0].method == BASELINE and job[0].fold == run.fold]
        if run.method == PSEUDO_LABELS and before:
            before[0].append(run)
        else:
            jobs.append([run])
    return jobs


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _message(error: Exception) -> str:
    """The message; of an unforeseen error its kind, too."""
    return str(error) if isinstance(error, NNUNetSSLError) else f"{type(error).__name__}: {error}"
