"""What the demo does, step by step, and what it shows in the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.conversion.dataset_json import read_json, write_json_atomically
from nnunet_ssl.demo.phantom import FILE_ENDING, SPACING, TASKS, Counts, write_dataset
from nnunet_ssl.demo.pictures import Column, draw_overlays, worst_median_best
from nnunet_ssl.inference.prompts import TASK_VARIABLE
from nnunet_ssl.steps import Action, Command, Step
from nnunet_ssl.tables import format_table

DATASET_ID = "990"
DATASET = "Dataset990_Phantom"
PLANS = "nnUNetPlans_demo"
TRAINERS = ("nnUNetTrainerSSLSupervised", "nnUNetTrainerVerSemi")

_CONFIGURATION = "3d_fullres"
_FOLD = "0"
_ROOTS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class Budget:
    """How much the demo does.

    Attributes:
        counts: scans of each task; one in five of the labelled ones is for validation.
        options: what ``nnUNetv2_ssl configure`` sets.
    """

    counts: Counts = field(default_factory=lambda: Counts(labeled=5, unlabeled=24, test=8))
    options: tuple[str, ...] = (
        "features_per_stage=8,16,32,64",
        "patch_size=24,40,40",
        "batch_size=2",
        "num_epochs=10",
        "num_iterations_per_epoch=50",
        "num_val_iterations_per_epoch=4",
        "optimizer=adamw",
        "initial_lr=0.003",
        "seed=0",
    )


FAST = Budget(
    Counts(labeled=3, unlabeled=2, test=1),
    (
        "features_per_stage=4,8,16",
        "patch_size=16,24,24",
        "batch_size=2",
        "num_epochs=2",
        "num_iterations_per_epoch=3",
        "num_val_iterations_per_epoch=1",
        "optimizer=adamw",
        "initial_lr=0.003",
        "seed=0",
    ),
)


@dataclass(frozen=True)
class Workplace:
    """The folders of one demo."""

    folder: Path

    @property
    def dataset(self) -> Path:
        """The raw dataset."""
        return self.folder / "nnUNet_raw" / DATASET

    def clear(self) -> None:
        """Remove data and results of the phantom."""
        left = [*(f"{root}/{DATASET}" for root in _ROOTS), "to_predict", "predictions"]
        for name in left:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def to_predict(self, task: str) -> Path:
        """Copies of the test scans of one task."""
        return self.folder / "to_predict" / task

    @property
    def pictures(self) -> Path:
        """Where the overlays go."""
        return self.folder / "pictures"

    @property
    def results(self) -> Path:
        """All numbers."""
        return self.folder / "results.json"

    def predictions(self, trainer: str) -> Path:
        """Predicted test scans of one trainer."""
        return self.folder / "predictions" / trainer

    def evaluation(self, trainer: str) -> Path:
        """Scores of one trainer."""
        return self.predictions(trainer) / "evaluation.json"

    def environment(self) -> dict[str, str]:
        """Environment of every command: nnU-Net's folders, and settings for a small machine."""
        roots = {name: str(self.folder / name) for name in _ROOTS}
        # Each worker costs seconds to start; compiling costs a minute, which so short a run never earns back
        defaults = {"nnUNet_def_n_proc": "2", "nnUNet_compile": "f"}
        # Threads that wait by spinning make a step six times as slow as soon as anything else wants the cores
        defaults["OMP_WAIT_POLICY"] = "PASSIVE"
        return roots | {name: os.environ.get(name, value) for name, value in defaults.items()}


def demo_steps(place: Workplace, device: str, budget: Budget, seed: int = 0) -> list[Step]:
    """The sequence: data, plans, a baseline and a semi-supervised model, scores."""
    counts = budget.counts

    def make_data() -> None:
        place.clear()  # what another budget or seed has left
        write_dataset(place.dataset, counts, seed)
        for task in TASKS:
            place.to_predict(task.name).mkdir(parents=True)
            for file in (place.dataset / "imagesTs").glob(f"{task.prefix}*"):
                shutil.copy(file, place.to_predict(task.name))

    where = ("-d", DATASET_ID, "-c", _CONFIGURATION)
    per_task = f"{counts.labeled} labelled, {counts.unlabeled} unlabelled, {counts.test} test scans"
    steps: list[Step] = [
        Action(
            "Draw the phantom",
            f"# seed {seed}: {len(TASKS)} tasks of {per_task} in {place.dataset}",
            make_data,
        ),
        Command("Plan and preprocess", ("nnUNetv2_plan_and_preprocess", *where, "-np", "2")),
        Command(
            "Split",
            ("nnUNetv2_ssl", "split", "-d", DATASET_ID, "--labeled", "all", "--val", "0.2", "--seed", "0"),
        ),
        Command(
            "Configure",
            ("nnUNetv2_ssl", "configure", *where, "-o", PLANS, "--overwrite", "--set", *budget.options),
        ),
        Command(
            "Preprocess unlabelled scans", ("nnUNetv2_ssl", "preprocess", *where, "-p", PLANS, "-np", "2")
        ),
    ]
    steps += [_train(trainer, device) for trainer in TRAINERS]
    steps += [_predict(place, trainer, task.name, device) for trainer in TRAINERS for task in TASKS]
    steps += [_evaluate(place, trainer) for trainer in TRAINERS]
    return steps


def _train(trainer: str, device: str) -> Command:
    argv = (
        "nnUNetv2_train",
        DATASET_ID,
        _CONFIGURATION,
        _FOLD,
        "-p",
        PLANS,
        "-tr",
        trainer,
        "-device",
        device,
    )
    # Augmenting these small patches costs less than the workers would take from the training; and without
    # workers the patches follow from the seed
    return Command(f"Train {trainer}", argv, {"nnUNet_n_proc_DA": "0"})


def _predict(place: Workplace, trainer: str, task: str, device: str) -> Command:
    argv = ["nnUNetv2_predict", "-d", DATASET_ID, "-i", str(place.to_predict(task))]
    argv += ["-o", str(place.predictions(trainer))]
    argv += ["-f", _FOLD, "-c", _CONFIGURATION, "-p", PLANS, "-tr", trainer]
    argv += ["-device", device, "--disable_tta", "-npp", "1", "-nps", "1"]
    # A user knows what to segment. Asked for both tasks at once, VerSemi must choose between prompts that it
    # has never seen together: no scan is annotated for both.
    return Command(f"Predict {task} with {trainer}", tuple(argv), {TASK_VARIABLE: task})


def _evaluate(place: Workplace, trainer: str) -> Command:
    argv = ["nnUNetv2_ssl", "evaluate", "-ref", str(place.dataset / "labelsTs")]
    argv += ["-pred", str(place.predictions(trainer)), "-d", DATASET_ID, "-np", "2"]
    return Command(f"Evaluate {trainer}", tuple(argv))


def collect_results(place: Workplace, budget: Budget, device: str) -> dict[str, Any]:
    """Gather the scores of both trainers, write ``results.json`` and return it.

    Raises:
        DataError: an evaluation is missing.
    """
    means = {trainer: read_json(place.evaluation(trainer))["mean"]["tasks"] for trainer in TRAINERS}
    results = {"trainers": means, "options": list(budget.options), "device": device, "unit": "mm"}
    write_json_atomically(place.results, results)
    return results


def show_results(results: Mapping[str, Any]) -> str:
    """The table of trainers and tasks: mean Dice and 95HD of the test scans."""
    header = ["trainer"]
    for task in TASKS:
        header += [f"{task.name} Dice", f"{task.name} 95HD (mm)"]
    rows = [
        [trainer, *(means[task.name][metric] for task in TASKS for metric in ("Dice", "HD95"))]
        for trainer, means in results["trainers"].items()
    ]
    return format_table(rows, header)


def draw_pictures(place: Workplace) -> list[Path]:
    """Draw the worst, median and best test case of each task; returns the files."""
    cases = {trainer: _dice_by_case(read_json(place.evaluation(trainer))) for trainer in TRAINERS}
    files = []
    for task in TASKS:
        scores = {
            case: [cases[t][case] for t in TRAINERS]
            for case in cases[TRAINERS[0]]
            if case.startswith(task.prefix)
        }
        columns = [
            _column(
                place, case, task.value, f"{rank}: {case}", dict(zip(TRAINERS, scores[case], strict=True))
            )
            for rank, case in worst_median_best(scores).items()
        ]
        if columns:
            files.append(place.pictures / f"{task.name.lower()}.png")
            draw_overlays(columns, files[-1], f"{task.name}: test scans")
    return files


def _dice_by_case(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    """Dice of each case; a case of the phantom has one label."""
    return {entry["case"]: next(iter(entry["labels"].values()))["Dice"] for entry in evaluation["cases"]}


def _column(place: Workplace, case: str, label: int, title: str, dice: Mapping[str, float | None]) -> Column:
    shown = "\n".join(f"{_short(trainer)}: Dice {value:.2f}" for trainer, value in dice.items())
    return Column(
        title=f"{title}\n{shown}",
        image=_read(place.dataset / "imagesTs" / f"{case}_0000{FILE_ENDING}"),
        reference=_read(place.dataset / "labelsTs" / f"{case}{FILE_ENDING}") == label,
        predictions={
            _short(t): _read(place.predictions(t) / f"{case}{FILE_ENDING}") == label for t in TRAINERS
        },
        aspect=SPACING[1] / SPACING[2],
    )


def _short(trainer: str) -> str:
    return trainer.removeprefix("nnUNetTrainer")


def _read(file: Path) -> NDArray[Any]:
    import SimpleITK as sitk

    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))
