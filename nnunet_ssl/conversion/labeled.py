"""Write ``splits_final.json`` right after a conversion: a paper's split, or one drawn by ``split``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ssl.conversion.dataset_plan import DatasetPlan
from nnunet_ssl.conversion.split import Cases, SplitRequest, make_splits, parse_labeled, write_splits
from nnunet_ssl.data.dataset_json import root_folder
from nnunet_ssl.errors import ConfigError

_BETWEEN = "\x1f"  # stands in no identifier


def folds_for(plan: DatasetPlan, text: str) -> Sequence[Any]:
    """The folds that ``--labeled`` asks for: the name of a split of the plan, or a number or share of cases.

    Raises:
        ConfigError: it is neither.
        DataError: there are too few cases.
    """
    training = [case for case in plan.cases if case.subset == "train"]
    for split in plan.splits:
        if split.name == text:
            return split.to_json({case.identifier for case in training})
    try:
        labeled = parse_labeled(text)
    except ConfigError as error:
        known = ", ".join(split.name for split in plan.splits) or "none for this dataset"
        raise ConfigError(f"{error} Or the name of a paper's split: {known}.") from error
    names = {f"{case.together}{_BETWEEN}{case.identifier}": 0 for case in training}
    folds = min(SplitRequest.folds, len({case.together for case in training}))
    request = SplitRequest(labeled=labeled, folds=folds, group_regex=f"^([^{_BETWEEN}]*)")
    made = make_splits(Cases(names, [plan.name]), request)
    return [{role: sorted(n.split(_BETWEEN)[1] for n in fold[role]) for role in fold} for fold in made]


def check_labeled(plan: DatasetPlan, text: str) -> None:
    """Raise now what ``write_labeled`` would raise after an hour of conversion."""
    root_folder("preprocessed")
    folds_for(plan, text)


def write_labeled(plan: DatasetPlan, text: str) -> Path:
    """Write what ``folds_for`` makes into the preprocessed folder of the dataset; returns the file."""
    return write_splits(root_folder("preprocessed") / plan.name, folds_for(plan, text))[0]
