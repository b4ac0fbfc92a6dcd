"""What a trainer refuses; no trainer need be made for it, so that a benchmark can ask before its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from nnunet_ssl.config import TrainingConfig, resolve
from nnunet_ssl.conversion.plans import NO_CASCADE, is_cascade
from nnunet_ssl.errors import ConfigError, TaskError, few
from nnunet_ssl.methods import CONFIGS
from nnunet_ssl.methods.base import Method
from nnunet_ssl.tasks import BLOCK, TaskTable


def check_trainable(
    trainer: Any,
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    unlabeled: Iterable[str] = (),
) -> None:
    """Refuse what every training would refuse; a trainer itself does so by what it makes at its start.

    Args:
        trainer: class of ours.
        plans: content of a plans file.
        configuration: such as ``3d_fullres``.
        dataset_json: content of dataset.json.
        unlabeled: identifiers of unlabelled cases.

    Raises:
        ConfigError: the configuration is the cascade's second stage, or options do not go together or do not
            fit the dataset.
        TaskError: the task of an unlabelled case is needed and not known.
    """
    check_no_cascade(trainer, plans, configuration)
    config, table = method_options(trainer, plans), TaskTable.from_dataset_json(dataset_json)
    trainer.network_plans(config, table)
    check_known_tasks(trainer, config, table, unlabeled)


def check_no_cascade(trainer: Any, plans: Mapping[str, Any], configuration: str) -> None:
    """Raise ``ConfigError`` for the cascade's second stage."""
    if is_cascade(plans, configuration):
        raise ConfigError(f"{trainer.__name__} cannot train '{configuration}': {NO_CASCADE}")


def method_options(trainer: Any, plans: Mapping[str, Any]) -> Any:
    """The options of a trainer's method.

    Raises:
        ConfigError: one is unknown, of the wrong type or out of range.
    """
    options = plans.get(BLOCK, {}).get("options", {})
    return resolve(trainer.method_config_class, options, [TrainingConfig, *CONFIGS])


def check_known_tasks(trainer: Any, config: Any, table: TaskTable, unlabeled: Iterable[str]) -> None:
    """Raise ``TaskError`` if the trainer needs the task of every unlabelled case and one is not known."""
    if not getattr(config, "task_info", False):
        return
    unknown = sorted(case for case in unlabeled if table.known_task_of(case) < 0)
    if unknown:
        optional = any(field.name == "task_info" for field in dataclasses.fields(config))
        raise TaskError(
            f"{'task_info=true' if optional else trainer.__name__} needs the task of every unlabelled case, "
            f"but {len(unknown)} bear no task's prefix: {few(unknown, 10)}. Rename them"
            f"{' or set task_info=false' if optional else ''}."
        )


def check_batch(trainer: Any, method: Method, labeled: int, unlabeled: int) -> None:
    """Raise ``ConfigError`` if a process has too few patches: a pair of one would be mixed with itself."""
    least = method.least_batch
    if labeled < least or (method.uses_unlabeled and unlabeled < least):
        raise ConfigError(
            f"{trainer.__name__} mixes pairs of patches: expected {least} or more labelled and unlabelled "
            f"ones in an update of each process, found {labeled} and {unlabeled}. Take fewer GPUs, or raise "
            "batch_size (or unlabeled_batch_size) with 'nnUNetv2_ssl configure'."
        )
