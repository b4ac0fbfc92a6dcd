"""The folder of a benchmark: nnU-Net's three folders in it, with links to the user's data.

The dataset keeps its name and number there, but has plans, splits and results of its own, so that the user's
``splits_final.json`` and results are left alone::

    benchmark.json                      what is compared; see ``plan``
    nnUNet_raw/DATASET                  dataset.json, links to imagesUn and the test scans
    nnUNet_preprocessed/DATASET         plans (one for each seed), splits_final.json, links to the cases
    nnUNet_results/DATASET              as nnU-Net writes them
    test/part_0/{images,labels}         links to the test cases
    runs/METHOD/labeled_8/seed_0        logs, predictions, evaluation.json; done.json comes last
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.benchmark.plan import Plan, Run, Settings
from nnunet_ssl.benchmark.source import Source
from nnunet_ssl.conversion.merge_files import place_file, spacing_file
from nnunet_ssl.conversion.plans import configure_plans, read_plans, resolve_configuration
from nnunet_ssl.conversion.prompt_embedding import stored_file
from nnunet_ssl.data.dataset_json import read_dataset_json
from nnunet_ssl.data.layout import IMAGES_UNLABELED, SPLITS_FILE, UNLABELED
from nnunet_ssl.errors import ConfigError, DataError, few
from nnunet_ssl.json_files import read_json, write_json_atomically

PLAN_FILE = "benchmark.json"
DONE, FAILED = "done.json", "failed.json"


@dataclass(frozen=True)
class Workplace:
    """Paths in the folder of a benchmark."""

    folder: Path
    settings: Settings

    @property
    def environment(self) -> dict[str, str]:
        """nnU-Net's folders for every command of the benchmark."""
        return {
            root: str(self.folder / root) for root in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        }

    @property
    def raw(self) -> Path:
        """The dataset's raw folder."""
        return self.folder / "nnUNet_raw" / self.settings.dataset

    @property
    def preprocessed(self) -> Path:
        """The dataset's preprocessed folder."""
        return self.folder / "nnUNet_preprocessed" / self.settings.dataset

    def plans_of(self, seed: int) -> str:
        """Name of the plans that carry a seed."""
        return f"{self.settings.plans}_seed{seed}"

    def test_images(self, part: int, task: str | None = None) -> Path:
        """Links to the test scans, of one task where there are several."""
        folder = self.folder / "test" / f"part_{part}" / "images"
        return folder / task if task else folder

    def test_labels(self, part: int) -> Path:
        """Links to the reference labels of the test scans."""
        return self.folder / "test" / f"part_{part}" / "labels"

    def run(self, run: Run) -> Path:
        """Folder of one run."""
        return self.folder / "runs" / run.name

    def model(self, run: Run, trainer: str, plans: str) -> Path:
        """nnU-Net's folder of the training."""
        name = f"{trainer}__{plans}__{self.settings.configuration}"
        return self.folder / "nnUNet_results" / self.settings.dataset / name / f"fold_{run.fold}"

    def is_done(self, run: Run) -> bool:
        """Whether the run is complete."""
        return (self.run(run) / DONE).is_file()


def read_benchmark(folder: Path) -> tuple[Workplace, Plan]:
    """The benchmark in a folder.

    Raises:
        DataError: there is none.
    """
    file = folder / PLAN_FILE
    if not file.is_file():
        raise DataError(f"{folder} holds no benchmark: expected {file}, written by 'nnUNetv2_ssl benchmark'.")
    plan = Plan.from_json(read_json(file))
    return Workplace(folder.resolve(), plan.settings), plan


def check(place: Workplace, plan: Plan, source: Source) -> tuple[dict[str, Any], dict[Path, Path]]:
    """See whether the folder can be made or completed, before anything is written.

    Returns:
        The plans, and what ``prepare`` links: each preprocessed file and where it goes.

    Raises:
        ConfigError: the plans have changed since the folder was made.
        DataError: cases are not preprocessed.
    """
    plans = read_plans(source.preprocessed, place.settings.plans)
    copy = place.preprocessed / f"{place.settings.plans}.json"
    if copy.is_file() and read_json(copy) != plans:
        raise ConfigError(
            f"{place.settings.plans} changed since this benchmark was begun, so new runs would not be "
            f"comparable. Name another folder with -o, or restore the plans ({copy} is as they were)."
        )
    return plans, _preprocessed_links(place, plan, source, plans)


def prepare(place: Workplace, plan: Plan, source: Source, known: Sequence[type]) -> None:
    """Make or complete the folder; what is there already stays.

    ``benchmark.json`` comes first, so that the same command completes what was interrupted.

    Args:
        place: where.
        plan: what is compared.
        source: the user's dataset.
        known: classes of options, to check the plans with.

    Raises:
        ConfigError: the plans have changed since the folder was made.
        DataError: cases are not preprocessed.
    """
    plans, links = check(place, plan, source)
    place.raw.mkdir(parents=True, exist_ok=True)
    write_json_atomically(place.folder / PLAN_FILE, plan.to_json())
    _link_preprocessed(place, source, links)
    _write_plans(place, plan, plans, known)
    _link_tests(place, plan, source)
    write_json_atomically(place.raw / "dataset.json", _plain(source.dataset_json))
    for case in plan.bare:  # not the folder: what the user adds to his would change later runs
        link_images(source.bare[case], place.raw / IMAGES_UNLABELED, case, source.ending)
    folds = [{"train": f.train, "val": f.val, UNLABELED: f.unlabeled} for f in plan.folds]
    write_json_atomically(place.preprocessed / SPLITS_FILE, folds)


def link_files(links: Mapping[Path, Path]) -> None:
    """Put a link to each key at its value, unless something is there; a dangling one is replaced."""
    for source, target in links.items():
        if target.is_symlink() and not target.exists():  # the data or the benchmark was moved
            target.unlink()
        if not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            place_file(source, target, copy=False)


def link_images(files: Sequence[Path], folder: Path, case: str, ending: str) -> None:
    """Put links to the channels of a case, and to its spacing, into a folder, under nnU-Net's names."""
    link_files({file: folder / f"{case}_{channel:04d}{ending}" for channel, file in enumerate(files)})
    link_files(_spacing_link(spacing_file(files[0], ending), folder, case))


def label_links(label: Path, folder: Path, case: str, ending: str) -> dict[Path, Path]:
    """What links a label file into a folder: the file, and its spacing where that lies beside it."""
    spacing = spacing_file(label, ending, is_label=True)
    return {label: folder / f"{case}{ending}", **_spacing_link(spacing, folder, case)}


def _spacing_link(spacing: Path | None, folder: Path, case: str) -> dict[Path, Path]:
    return {} if spacing is None else {spacing: folder / f"{case}.json"}


def _plain(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Without lists of files, which are relative to another folder."""
    return {key: value for key, value in dataset_json.items() if key != "dataset"}


def _preprocessed_links(
    place: Workplace, plan: Plan, source: Source, plans: Mapping[str, Any]
) -> dict[Path, Path]:
    """Links to all preprocessed cases that a fold names: what is not there cannot leak.

    Raises:
        DataError: cases are not preprocessed.
    """
    identifier = resolve_configuration(plans, place.settings.configuration)["data_identifier"]
    links, found = {}, set()
    cases = {case for fold in plan.folds for case in (*fold.train, *fold.val, *fold.unlabeled)}
    data = source.preprocessed / identifier
    for file in sorted(data.iterdir()) if data.is_dir() else []:
        case = file.stem if file.stem in cases else file.stem.removesuffix("_seg")
        if case in cases:
            links[file] = place.preprocessed / identifier / file.name
            found.add(case)
    if cases - found:
        missing = few(sorted(cases - found))
        raise DataError(
            f"{len(cases - found)} case(s) are not in {data} ({missing}). "
            f"Run nnUNetv2_preprocess -d {source.name[7:10]} -plans_name {place.settings.plans} "
            f"-c {place.settings.configuration} first."
        )
    for case in cases:
        label = source.training[case][1]
        links |= label_links(label, place.preprocessed / "gt_segmentations", case, source.ending)
    return links


def _link_preprocessed(place: Workplace, source: Source, links: Mapping[Path, Path]) -> None:
    link_files(links)
    write_json_atomically(place.preprocessed / "dataset.json", _plain(read_dataset_json(source.preprocessed)))
    sentences = stored_file(source.name)
    if sentences is not None:
        link_files({sentences: place.preprocessed / sentences.name})
    fingerprint = source.preprocessed / "dataset_fingerprint.json"
    if fingerprint.is_file():
        write_json_atomically(place.preprocessed / fingerprint.name, read_json(fingerprint))


def _write_plans(place: Workplace, plan: Plan, plans: Mapping[str, Any], known: Sequence[type]) -> None:
    """A copy of the plans, and one for each seed."""
    write_json_atomically(place.preprocessed / f"{place.settings.plans}.json", plans)
    for seed in sorted({fold.seed for fold in plan.folds}):
        name = place.plans_of(seed)
        seeded, _ = configure_plans(plans, name, {"seed": str(seed)}, known=known)
        write_json_atomically(place.preprocessed / f"{name}.json", seeded)


def _link_tests(place: Workplace, plan: Plan, source: Source) -> None:
    table = source.tasks
    for part, cases in enumerate(plan.tests):
        for case in cases:
            images, label = (source.test if place.settings.test == "imagesTs" else source.training)[case]
            task = table.tasks[table.task_of(case)].name if len(table) > 1 else None
            link_images(images, place.test_images(part, task), case, source.ending)
            link_files(label_links(label, place.test_labels(part), case, source.ending))
            if len(plan.tests) == 1:  # trainers refuse to learn from what is in imagesTs
                link_images(images, place.raw / "imagesTs", case, source.ending)
