"""Read what a benchmark has produced so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.benchmark.curves import CURVES
from nnunet_ssl.benchmark.plan import ALL, BASELINE, PSEUDO_LABELS, Plan, Run
from nnunet_ssl.benchmark.workplace import DONE, FAILED, Workplace, read_benchmark
from nnunet_ssl.curve_names import HIDDEN_DICE, PREFIX
from nnunet_ssl.errors import DataError
from nnunet_ssl.evaluation.scores import Scores, average, concatenate, scores_from_json
from nnunet_ssl.json_files import read_json

Key = tuple[str, str, int]  # method, labels, seed


@dataclass(frozen=True)
class Results:
    """A benchmark, as far as it is done.

    Attributes:
        place: its folder.
        plan: what is compared.
        scores: of each method, number of labels and seed whose test parts are all done.
        done: content of ``done.json`` of each run that is done.
        trainings: what ``curves.json`` of each run that is done holds; see ``benchmark.curves``.
        failed: error of each run whose last try failed.
        missing: runs that are neither done nor failed.
    """

    place: Workplace
    plan: Plan
    scores: Mapping[Key, Scores]
    done: Mapping[Run, Mapping[str, Any]]
    trainings: Mapping[Run, Mapping[str, Any]]
    failed: Mapping[Run, str]
    missing: Sequence[Run]

    @property
    def methods(self) -> list[str]:
        """With at least one result; the baseline first, then in the order asked for."""
        wanted = [BASELINE, PSEUDO_LABELS, *self.plan.wish.trainers]
        return [m for m in dict.fromkeys(wanted) if any(key[0] == m for key in self.scores)]

    @property
    def labels(self) -> list[str]:
        """Numbers of labels as typed, smallest first, ``all`` last."""
        return sorted({fold.labeled for fold in self.plan.folds}, key=self.labelled_cases)

    def labelled_cases(self, labeled: str) -> float:
        """Labelled training cases, mean over seeds and parts."""
        sizes = [len(fold.train) for fold in self.plan.folds if fold.labeled == labeled]
        return sum(sizes) / len(sizes)

    def name_of_labels(self, labeled: str) -> str:
        """For a sentence: ``5 labels (10 %)``, ``20 labels (4 of each task)``, ``all 54 labels``.

        The number is that of the labelled cases, mean over seeds and parts.
        """
        cases = f"{self.labelled_cases(labeled):.0f}"
        if labeled == ALL:
            return f"all {cases} labels"
        if "." in labeled:
            return f"{cases} labels ({100 * float(labeled):.3g} %)"
        if cases == labeled:
            return f"{cases} labels"
        several = any(len(set(scores.tasks)) > 1 for scores in self.scores.values())
        return f"{cases} labels ({labeled} {'of each task' if several else 'asked for, groups stay whole'})"

    def seeds(self, *wanted: tuple[str, str]) -> list[int]:
        """Seeds for which each (method, labels) has a result."""
        return [s for s in self.plan.wish.seeds if all((m, n, s) in self.scores for m, n in wanted)]

    def mean(self, method: str, labeled: str, seeds: Sequence[int]) -> Scores:
        """Scores of each case, averaged over seeds."""
        return average([self.scores[method, labeled, seed] for seed in seeds])

    @property
    def watches_hidden_labels(self) -> bool:
        """Whether the pseudo-labels' Dice was computed with labels that the split hides."""
        return any(PREFIX + HIDDEN_DICE in self.curves(run) for run in self.done)

    def curves(self, run: Run) -> Mapping[str, Sequence[Any]]:
        """nnU-Net's log of a run that is done, one value per epoch."""
        return self.trainings[run].get("curves", {})


def short_name(method: str) -> str:
    """Without nnU-Net's prefix; the baseline by what it is."""
    return "supervised" if method == BASELINE else method.removeprefix("nnUNetTrainer")


def read_results(folder: Path) -> Results:
    """Read a benchmark's folder.

    Raises:
        DataError: it holds no benchmark, or no run is done.
    """
    place, plan = read_benchmark(folder)
    done, trainings, failed, missing, scores = {}, {}, {}, [], {}
    for run in plan.runs():
        try:
            if place.is_done(run):
                scores[run] = _scores_of(place, run)
                trainings[run] = _training(place, run)
                done[run] = _done(place, run)
            elif (place.run(run) / FAILED).is_file():
                failed[run] = str(read_json(place.run(run) / FAILED)["error"])
            else:
                missing.append(run)
        except (DataError, OSError, ValueError, KeyError) as error:
            failed[run] = (
                f"its files cannot be read ({error}). Remove {DONE} and stamps in {place.run(run)} and do it "
                "again."
            )
    if not done:
        reasons = "".join(f"\n  {run.name}: {text.splitlines()[0]}" for run, text in failed.items())
        raise DataError(
            f"No run of the benchmark in {folder} is done, so there is nothing to report.{reasons}"
        )
    complete = _joined({run: scores[run] for run in done}, plan)
    return Results(place, plan, complete, done, trainings, failed, missing)


def _done(place: Workplace, run: Run) -> Mapping[str, Any]:
    """What a run left: each entry that the report wants."""
    content = read_json(place.run(run) / DONE)
    return {key: content[key] for key in ("commands", "seconds", "versions")}


def _training(place: Workplace, run: Run) -> Mapping[str, Any]:
    file = place.run(run) / CURVES
    return read_json(file) if file.is_file() else {}


def _scores_of(place: Workplace, run: Run) -> Scores:
    file = place.run(run) / "evaluation.json"
    # Runs of an older version were scored without groups
    return scores_from_json(read_json(file), str(file)).grouped(place.settings.group_regex)


def _joined(scores: Mapping[Run, Scores], plan: Plan) -> dict[Key, Scores]:
    """Scores of all test parts together; incomplete ones are left out, for they are other cases."""
    parts: dict[Key, dict[int, Scores]] = {}
    for run, found in scores.items():
        parts.setdefault((run.method, run.labeled, run.seed), {})[run.part] = found
    return {
        key: concatenate([of_part[part] for part in sorted(of_part)])
        for key, of_part in parts.items()
        if len(of_part) == len(plan.tests)
    }
