"""The steps of one run: stock commands as a user would type them, and what ties them together."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ssl.benchmark.curves import CURVES, save_curves
from nnunet_ssl.benchmark.plan import BASELINE, PSEUDO_LABELS, Plan, Run
from nnunet_ssl.benchmark.source import Source
from nnunet_ssl.benchmark.workplace import Workplace, label_links, link_files, link_images
from nnunet_ssl.data.layout import SPLITS_FILE, UNLABELED
from nnunet_ssl.errors import DataError
from nnunet_ssl.inference.prompts import TASK_VARIABLE
from nnunet_ssl.json_files import read_json, write_json_atomically
from nnunet_ssl.steps import Action, Command, Step


@dataclass(frozen=True)
class Machine:
    """How commands are run; results should not depend on it.

    Attributes:
        device: nnU-Net's ``-device``.
        num_gpus: nnU-Net's ``-num_gpus``.
        processes: worker processes of preprocessing, prediction and scoring; 0 works in the command itself,
            but for preprocessing.
    """

    device: str = "cuda"
    num_gpus: int = 1
    processes: int = 3


@dataclass(frozen=True)
class Steps:
    """Makes the steps of the runs of one benchmark."""

    place: Workplace
    plan: Plan
    source: Source
    machine: Machine = field(default_factory=Machine)

    def of(self, run: Run) -> list[Step]:
        """All steps of a run, in order."""
        if run.method == PSEUDO_LABELS:
            return self._pseudo_labels(run)
        plans = self.place.plans_of(run.seed)
        return [
            self._train(run, run.method, plans),
            *self._judge(run, run.method, plans),
            self._curves(run, run.method, plans),
        ]

    def before_all(self) -> list[Step]:
        """What all runs share: scans of imagesUn are preprocessed once."""
        if not self.plan.bare:
            return []
        settings = self.place.settings
        argv = ["nnUNetv2_ssl", "preprocess", "-d", self._id, "-c", settings.configuration]
        argv += ["-p", settings.plans, "-np", str(max(1, self.machine.processes))]
        return [Command("Preprocess unlabelled scans", tuple(argv))]

    @property
    def _id(self) -> str:
        return str(int(self.place.settings.dataset[7:10]))

    def _train(self, run: Run, trainer: str, plans: str, env: Mapping[str, str] | None = None) -> Command:
        argv = ["nnUNetv2_train", self._id, self.place.settings.configuration, str(run.fold), "-p", plans]
        argv += ["-tr", trainer, "-device", self.machine.device]
        argv += ["-num_gpus", str(self.machine.num_gpus)] if self.machine.num_gpus > 1 else []
        # --c begins anew where there is no checkpoint, so that one command serves both
        return Command("Train", (*argv, "--c"), env or {})

    def _predict(
        self, run: Run, trainer: str, plans: str, cases: Iterable[str], images: Path, output: Path
    ) -> list[Step]:
        """One command for each task that has cases: a user knows what to segment in a scan."""
        steps: list[Step] = []
        for task in sorted({self._task_of(case) or "" for case in cases}):
            folder = images / task if task else images
            argv = ["nnUNetv2_predict", "-d", self._id, "-i", str(folder), "-o", str(output)]
            argv += [
                "-f",
                str(run.fold),
                "-c",
                self.place.settings.configuration,
                "-p",
                plans,
                "-tr",
                trainer,
            ]
            argv += ["-device", self.machine.device]
            argv += [] if self.place.settings.mirroring else ["--disable_tta"]
            argv += ["-npp", str(self.machine.processes), "-nps", str(self.machine.processes)]
            title = f"Predict {task}" if task else "Predict"
            steps.append(Command(title, tuple(argv), {TASK_VARIABLE: task} if task else {}))
        return steps

    def _judge(self, run: Run, trainer: str, plans: str) -> list[Step]:
        """Predict the test cases with the final checkpoint and score them."""
        folder = self.place.run(run)
        argv = ["nnUNetv2_ssl", "evaluate", "-ref", str(self.place.test_labels(run.part))]
        argv += ["-pred", str(folder / "predictions"), "-djfile", str(self.place.raw / "dataset.json")]
        argv += ["-o", str(folder / "evaluation.json"), "-np", str(self.machine.processes)]
        if self.place.settings.group_regex is not None:
            argv += ["--group-regex", self.place.settings.group_regex]
        images, tests = self.place.test_images(run.part), self.plan.tests[run.part]
        predict = self._predict(run, trainer, plans, tests, images, folder / "predictions")
        return [*predict, Command("Evaluate", tuple(argv))]

    def _curves(self, run: Run, trainer: str, plans: str) -> Action:
        model, file = self.place.model(run, trainer, plans), self.place.run(run) / CURVES
        return Action(
            "Collect curves", f"# {model}: curves of the final checkpoint", lambda: save_curves(model, file)
        )

    # Pseudo-label retraining

    def _pseudo_labels(self, run: Run) -> list[Step]:
        """Predict what is unlabelled with the supervised model, take that for labels, train once more."""
        base = self.place.plans_of(run.seed)
        plans = f"{base}_pseudo"
        folder = self.place.run(run) / "retraining"
        # Raw and preprocessed data of its own, where predictions stand for labels; results beside the others
        env = {root: str(folder / root) for root in ("nnUNet_raw", "nnUNet_preprocessed")}
        settings = self.place.settings
        preprocess = ["nnUNetv2_preprocess", "-d", self._id, "-plans_name", plans]
        preprocess += ["-c", settings.configuration, "-np", str(max(1, self.machine.processes))]

        def gather() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            for case, images in self._unlabeled(run).items():
                task = self._task_of(case)
                link_images(images, folder / "to_predict" / (task or ""), case, self.source.ending)

        def build() -> None:
            self._build_retraining(run, folder, base, plans)

        def clean() -> None:
            shutil.rmtree(folder, ignore_errors=True)

        where = f"# {folder}:"
        return [
            Action("Gather unlabelled scans", f"{where} links to the scans whose labels are hidden", gather),
            *self._predict(
                run, BASELINE, base, self._unlabeled(run), folder / "to_predict", folder / "predicted"
            ),
            Action("Take predictions for labels", f"{where} a dataset with predictions as labels", build),
            Command("Preprocess", tuple(preprocess), env),
            self._train(run, BASELINE, plans, env),
            *self._judge(run, BASELINE, plans),
            self._curves(run, BASELINE, plans),
            Action("Remove the copy of the data", f"{where} removed", clean),
        ]

    def _task_of(self, case: str) -> str | None:
        table = self.source.tasks
        return table.tasks[table.task_of(case)].name if len(table) > 1 else None

    def _unlabeled(self, run: Run) -> dict[str, list[Path]]:
        """Scans without a label: hidden ones and imagesUn; scans of unknown task cannot get a label."""
        hidden = {c: list(self.source.training[c][0]) for c in self.plan.folds[run.fold].unlabeled}
        table = self.source.tasks
        bare = {c: list(self.source.bare[c]) for c in self.plan.bare if table.known_task_of(c) >= 0}
        return hidden | bare

    def _build_retraining(self, run: Run, folder: Path, base: str, plans: str) -> None:
        """Write a raw dataset with predictions as labels, and what preprocessing it needs."""
        fold, ending = self.plan.folds[run.fold], self.source.ending
        raw = folder / "nnUNet_raw" / self.place.settings.dataset
        preprocessed = folder / "nnUNet_preprocessed" / self.place.settings.dataset
        unlabeled = self._unlabeled(run)
        images = {c: self.source.training[c][0] for c in (*fold.train, *fold.val)} | unlabeled
        labels = {c: self.source.training[c][1] for c in (*fold.train, *fold.val)}
        labels |= {c: folder / "predicted" / f"{c}{ending}" for c in unlabeled}
        missing = [str(file) for file in labels.values() if not file.is_file()]
        if missing:
            raise DataError(f"Expected {len(missing)} label file(s) that are missing, such as {missing[0]}.")
        for case, files in images.items():
            link_images(files, raw / "imagesTr", case, ending)
            link_files(label_links(labels[case], raw / "labelsTr", case, ending))
        preprocessed.mkdir(parents=True, exist_ok=True)
        description = {**read_json(self.place.raw / "dataset.json"), "numTraining": len(images)}
        for target in (raw, preprocessed):
            write_json_atomically(target / "dataset.json", description)
        link_files(
            {f: preprocessed / f.name for f in self.place.preprocessed.glob("dataset_fingerprint.json")}
        )
        content = read_json(self.place.preprocessed / f"{base}.json")
        write_json_atomically(preprocessed / f"{plans}.json", {**content, "plans_name": plans})
        train = [*fold.train, *unlabeled]
        split = {"train": train, "val": list(fold.val), UNLABELED: []}
        # The same fold as that of the other methods; the folds before it are never asked for
        write_json_atomically(preprocessed / SPLITS_FILE, [split] * (run.fold + 1))
