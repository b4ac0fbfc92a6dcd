"""How long the missing runs will take, from what was measured before or tried out."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from nnunet_ssl.benchmark.plan import BASELINE, PSEUDO_LABELS, Run
from nnunet_ssl.benchmark.workplace import DONE, Workplace
from nnunet_ssl.config import TrainingConfig
from nnunet_ssl.json_files import read_json
from nnunet_ssl.tasks import BLOCK

Budget = tuple[int, int]  # epochs, updates in each

# What an update with unlabelled patches takes against a supervised one, with as many unlabelled patches as
# labelled ones; over our methods, see benchmarks/RESULTS.md.
TIMES_SUPERVISED = (2, 6)
_STOCK_UPDATES = 250  # in an epoch of a trainer that does not read our options


def budget(plans: dict) -> Budget:
    """Epochs and updates per epoch that plans ask for."""
    options = plans.get(BLOCK, {}).get("options", {})
    default = TrainingConfig()
    return (
        int(options.get("num_epochs", default.num_epochs)),
        int(options.get("num_iterations_per_epoch", default.num_iterations_per_epoch)),
    )


def seconds_of_done(place: Workplace, runs: Sequence[Run]) -> dict[str, float]:
    """Mean duration of the runs that are done, by method."""
    took: dict[str, list[float]] = {}
    for run in runs:
        if place.is_done(run):
            seconds = read_json(place.run(run) / DONE)["seconds"]
            took.setdefault(run.method, []).append(sum(seconds.values()))
    return {method: fmean(values) for method, values in took.items()}


def seconds_per_update(dataset: str, plans: str, configuration: str, updates: int) -> dict[str, float]:
    """From logs of the user's own trainings with the same plans: trainer to seconds of one update."""
    results = os.environ.get("nnUNet_results")
    folder = Path(results) / dataset if results else None
    if folder is None or not folder.is_dir():
        return {}
    found = {}
    for model in folder.glob(f"*__{plans}__{configuration}"):
        times = [
            float(seconds)
            for log in model.glob("fold_*/training_log_*.txt")
            for seconds in re.findall(r"Epoch time: ([\d.]+) s", log.read_text(errors="replace"))
        ]
        if times:
            ours = any(model.glob("fold_*/ssl_config.json"))
            found[model.name.split("__")[0]] = median(times) / (updates if ours else _STOCK_UPDATES)
    return found


def estimate(
    todo: Sequence[Run], done: dict[str, float], per_update: dict[str, float], plans_budget: Budget
) -> tuple[float, str] | None:
    """Seconds that the missing runs will take together, and what that is based on.

    Args:
        todo: the missing runs.
        done: see ``seconds_of_done``.
        per_update: see ``seconds_per_update``.
        plans_budget: see ``budget``.

    Returns:
        ``None`` where nothing was measured.
    """
    updates = plans_budget[0] * plans_budget[1]
    known = {method: updates * seconds for method, seconds in per_update.items()} | done
    if not known:
        return None
    if BASELINE in known:  # the retraining is one more training of its kind
        known.setdefault(PSEUDO_LABELS, known[BASELINE])
    guessed = sorted({run.method for run in todo if run.method not in known})
    total = sum(known.get(run.method, fmean(known.values())) for run in todo)
    epochs = "from the epochs of your trainings with these plans, without prediction"
    basis = "from the runs of this benchmark that are done" if done else epochs
    if done and any(run.method in per_update.keys() - done.keys() for run in todo):
        basis += f", and {epochs}"
    if guessed:
        basis += f"; for {', '.join(guessed)} the mean of the others"
    return total, basis


def estimate_untried(todo: Sequence[Run], per_update: float, plans_budget: Budget) -> tuple[float, float]:
    """Least and most seconds that runs may take, from those of one supervised update alone."""
    updates = plans_budget[0] * plans_budget[1]
    supervised = sum(run.method in (BASELINE, PSEUDO_LABELS) for run in todo)
    least, most = (supervised + times * (len(todo) - supervised) for times in TIMES_SUPERVISED)
    return least * updates * per_update, most * updates * per_update


def clock(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds.

    >>> clock(7500), clock(75)
    ('2 h 05 min', '1 min 15 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"
