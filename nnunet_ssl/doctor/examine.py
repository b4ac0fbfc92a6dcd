"""Examine a dataset: read it, run every check, rank what they find."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.data.dataset_json import existing_folder, read_dataset_json
from nnunet_ssl.data.layout import SPLITS_FILE
from nnunet_ssl.doctor import machine, nnunet
from nnunet_ssl.doctor.checks import (
    drift,
    duplicates,
    files,
    geometry,
    intensities,
    labels,
    outliers,
    resources,
    splits,
)
from nnunet_ssl.doctor.facts import IMAGES_TR
from nnunet_ssl.doctor.findings import Finding, accept, ranked
from nnunet_ssl.doctor.inventory import check_names, list_cases
from nnunet_ssl.doctor.scan import scan
from nnunet_ssl.doctor.study import Study, read_folds
from nnunet_ssl.errors import DataError
from nnunet_ssl.json_files import read_json
from nnunet_ssl.tasks import TaskTable

CHECKS: tuple[Callable[[Study], list[Finding]], ...] = (
    files.check_dataset_json,
    files.check_readable,
    geometry.check_channel_count,
    geometry.check_dimension,
    geometry.check_channels,
    geometry.check_labels,
    labels.check_values,
    labels.check_tasks,
    labels.check_blank,
    labels.check_sides,
    splits.check_parts,
    splits.check_folds,
    labels.check_classes,
    duplicates.check_duplicates,
    splits.check_patients,
    intensities.check_values,
    drift.check_drift,
    intensities.check_outliers,
    outliers.check_orientation,
    outliers.check_spacing,
    outliers.check_extent,
)


@dataclass(frozen=True)
class Request:
    """What ``nnUNetv2_ssl doctor`` was asked for.

    Attributes:
        dataset: raw folder of the dataset.
        configuration: of the plans; ``None`` for 3d_fullres or the only one.
        plans: name of the plans; they need not exist yet.
        fold: number or ``all``; ``None`` for every fold of the split.
        group_regex: as in ``nnUNetv2_ssl split``.
        accepted: checks whose errors the user declares to be none.
        processes: workers that read.

    Raises:
        ConfigError: there is no such check.
    """

    dataset: Path
    configuration: str | None = None
    plans: str = "nnUNetPlans"
    fold: str | None = None
    group_regex: str | None = None
    accepted: Sequence[str] = ()
    processes: int = 1

    def __post_init__(self) -> None:
        accept((), self.accepted)  # a misspelt name is an error now, not after all has been read


@dataclass(frozen=True)
class Examination:
    """What was read, what was found, and how many seconds reading took."""

    study: Study
    findings: list[Finding]
    seconds: float


def examine(request: Request) -> Examination:
    """Read every file of a dataset once and judge it.

    Raises:
        DataError: dataset.json or the split cannot be read, or there is nothing to look at.
        ConfigError: there is no such configuration or fold.
        TaskError: labels or tasks in dataset.json are malformed or contradict each other.
    """
    dataset_json = read_dataset_json(request.dataset)
    TaskTable.from_dataset_json(dataset_json)  # raises before everything is read
    cases = list_cases(request.dataset, dataset_json)
    preprocessed = existing_folder("preprocessed", request.dataset.name)
    plans = _plans(preprocessed, request)
    configuration = (
        nnunet.choose_configuration(plans, request.plans, request.configuration) if plans else None
    )
    folds = read_folds(
        (preprocessed or request.dataset) / SPLITS_FILE,
        request.fold,
        [case.case for case in cases if case.folder == IMAGES_TR],
    )
    started = time.monotonic()
    facts = scan(cases, nnunet.find_reader(dataset_json, cases), request.processes)
    seconds = time.monotonic() - started
    normalization = nnunet.normalization_of(dataset_json, plans, configuration)
    study = Study(request.dataset.name, dataset_json, facts, folds, normalization, request.group_regex)
    findings = check_names(request.dataset, dataset_json, cases)
    findings += [finding for check in CHECKS for finding in check(study)]
    if plans is not None and configuration is not None and preprocessed is not None:
        findings += resources.check_need(_need(study, plans, configuration, preprocessed))
    return Examination(study, ranked(accept(findings, request.accepted)), seconds)


def _plans(preprocessed: Path | None, request: Request) -> dict[str, Any] | None:
    """The plans, if the dataset has been planned; it need not be unless a configuration is asked for."""
    file = preprocessed / f"{request.plans}.json" if preprocessed else None
    if file is not None and file.is_file():
        return dict(read_json(file))
    if request.configuration is not None or request.plans != Request.plans:
        where = file or f"nnUNet_preprocessed/{request.dataset.name}"
        raise DataError(
            f"Expected the plans {where}, which do not exist. Run nnUNetv2_plan_and_preprocess first, or "
            "leave out -c and -p to examine the raw data alone."
        )
    return None


def _need(study: Study, plans: dict[str, Any], configuration: str, preprocessed: Path) -> resources.Need:
    gpu = machine.gpu_memory()
    facts = nnunet.plan_facts(preprocessed, plans, configuration, study.dataset_json, gpu is not None)
    return resources.Need(
        title=f"{facts.plans}, {configuration}",
        configuration=configuration,
        folder=facts.folder,
        shapes=resources.voxels_to_do(study, facts.spacing, facts.transpose, facts.done),
        disk=machine.free_disk(facts.folder),
        memory=machine.available_memory(),
        gpu_needed=None if facts.gpu_gb is None else facts.gpu_gb * resources.GB,
        gpu=gpu,
    )
