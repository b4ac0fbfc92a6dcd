"""Runs as jobs of a SLURM cluster, through submitit; without SLURM its local executors try it out."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.benchmark.execute import do_runs, order_for_jobs
from nnunet_ssl.benchmark.plan import Run
from nnunet_ssl.benchmark.steps import Steps
from nnunet_ssl.errors import ConfigError, NNUNetSSLError

# Parameters that submitit knows for every executor; all others are SLURM's.
_COMMON = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "name")
_CLUSTERS = ("slurm", "local", "debug")
# Submitit's 3 would end a long training; without any limit one that reaches no checkpoint never ends.
_TIMEOUTS = 100


@dataclass(frozen=True)
class Job:
    """What a job does: some runs, one after another. It can be continued, since every run can."""

    steps: Steps
    runs: tuple[Run, ...]

    def __call__(self) -> None:
        """Do the runs."""
        do_runs(self.steps, self.runs)

    def checkpoint(self) -> Any:
        """Asked by submitit when a job is preempted or runs out of time: queue the same again."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self)


def parse_parameters(items: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Read ``KEY=VALUE`` items of ``--slurm``.

    Returns:
        Which executor, and its parameters as submitit's ``AutoExecutor`` takes them.

    Raises:
        ConfigError: an item has no ``=``.
    """
    cluster, parameters = "slurm", {}
    for item in items:
        key, equals, text = (part.strip() for part in item.partition("="))
        if not equals or not key:
            raise ConfigError(f"--slurm: expected KEY=VALUE such as partition=gpu, got '{item}'.")
        value: Any = int(text) if text.lstrip("-").isdigit() else text
        if key == "cluster":
            if text not in _CLUSTERS:
                raise ConfigError(f"--slurm cluster: expected one of {', '.join(_CLUSTERS)}, got '{text}'.")
            cluster = text
        elif key in _COMMON or key.startswith("slurm_"):
            parameters[key] = value
        else:
            parameters[f"slurm_{key}"] = value
    return cluster, parameters


def check_installed() -> None:
    """Raise ``ConfigError`` where submitit is missing: before anything is done, not after."""
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError("--slurm needs submitit, which is not installed: pip install submitit.")


def submit(
    steps: Steps, runs: Sequence[Run], folder: Path, cluster: str, parameters: Mapping[str, Any]
) -> list[tuple[str, tuple[Run, ...], Any]]:
    """Submit the runs; those that build on each other share a job.

    Returns:
        Identifier, runs and submitit's handle of each job.

    Raises:
        ConfigError: there is no SLURM, or it does not know a parameter.
    """
    submitit: Any = importlib.import_module("submitit")
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=_TIMEOUTS)
        executor.update_parameters(**{"name": "nnunet_ssl", **parameters})
    except (RuntimeError, NameError, ValueError) as error:
        raise ConfigError(f"--slurm: {error}") from error
    jobs = []
    for job_runs in order_for_jobs(runs):
        try:
            job = executor.submit(Job(steps, tuple(job_runs)))
        except (submitit.core.utils.FailedJobError, FileNotFoundError) as error:
            raise ConfigError(f"--slurm: the job was not accepted: {error}") from error
        jobs.append((str(job.job_id), tuple(job_runs), job))
    return jobs


def wait_for(jobs: Sequence[tuple[str, tuple[Run, ...], Any]]) -> None:
    """Wait for jobs of the executors that work on this machine.

    Raises:
        NNUNetSSLError: a job failed.
    """
    failed = []
    for name, runs, job in jobs:
        error = job.exception()
        if error is not None:
            failed.append(f"job {name} ({', '.join(run.name for run in runs)}): {error}")
    if failed:
        raise NNUNetSSLError("\n".join(["jobs failed:", *failed]))
