"""What the demo does, step by step: a phantom, plans, and then a benchmark as on data of one's own."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ssl.demo.phantom import TASKS, Counts, write_dataset
from nnunet_ssl.steps import Action, Command, Step

DATASET_ID = "990"
DATASET = "Dataset990_Phantom"
PLANS = "nnUNetPlans_demo"
TRAINER = "nnUNetTrainerVerSemi"

_CONFIGURATION = "3d_fullres"
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

    @property
    def benchmark(self) -> Path:
        """Both trainings, their predictions and scores."""
        return self.folder / "benchmark"

    @property
    def report(self) -> Path:
        """What came out."""
        return self.folder / "report"

    def clear(self) -> None:
        """Remove data and results of the phantom."""
        for folder in (*(self.folder / root / DATASET for root in _ROOTS), self.benchmark, self.report):
            shutil.rmtree(folder, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Environment of every command: nnU-Net's folders, and settings for a small machine."""
        roots = {name: str(self.folder / name) for name in _ROOTS}
        # Each worker costs seconds to start; compiling costs a minute, which so short a run never earns back
        defaults = {"nnUNet_def_n_proc": "2", "nnUNet_compile": "f"}
        # Threads that wait by spinning make a step six times as slow as soon as anything else wants the cores
        defaults["OMP_WAIT_POLICY"] = "PASSIVE"
        return roots | {name: os.environ.get(name, value) for name, value in defaults.items()}


def demo_steps(place: Workplace, device: str, budget: Budget) -> list[Step]:
    """The sequence: data, plans, a baseline and a semi-supervised model, scores, report."""
    counts = budget.counts

    def make_data() -> None:
        place.clear()  # what another budget has left
        write_dataset(place.dataset, counts, seed=0)

    where = ("-d", DATASET_ID, "-c", _CONFIGURATION)
    per_task = f"{counts.labeled} labelled, {counts.unlabeled} unlabelled, {counts.test} test scans"
    benchmark = ["nnUNetv2_ssl", "benchmark", *where, "-p", PLANS, "--trainers", TRAINER, "--val", "0.2"]
    benchmark += ["--disable_tta", "-np", "1", "-device", device, "-o", str(place.benchmark)]
    report = ["nnUNetv2_ssl", "report", "-i", str(place.benchmark), "-o", str(place.report)]
    return [
        Action(
            "Draw the phantom",
            f"# seed 0: {len(TASKS)} tasks of {per_task} in {place.dataset}",
            make_data,
        ),
        Command("Plan and preprocess", ("nnUNetv2_plan_and_preprocess", *where, "-np", "2")),
        Command(
            "Configure",
            ("nnUNetv2_ssl", "configure", *where, "-o", PLANS, "--overwrite", "--set", *budget.options),
        ),
        # Augmenting these small patches costs less than the workers would take from the training; and without
        # workers the patches follow from the seed
        Command("Train, predict and score", tuple(benchmark), {"nnUNet_n_proc_DA": "0"}, live=True),
        Command("Report", tuple(report), live=True),
    ]
