"""Joining the validations of several tasks into the folder and summary that nnU-Net expects."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import load_summary_json, save_summary_json

SUMMARY = "summary.json"


def merge_task_validations(fold_folder: Path, tasks: list[str]) -> dict[str, float]:
    """Move ``validation_by_task/TASK/validation`` of each task into ``validation`` and join the summaries.

    In the joint summary a case has metrics for its own task's labels only.

    Returns:
        Mean Dice of every label.
    """
    target = fold_folder / "validation"
    target.mkdir(exist_ok=True)
    joint: dict[str, Any] = {"metric_per_case": [], "mean": {}}
    for task in tasks:
        source = fold_folder / "validation_by_task" / task / "validation"
        summary = load_summary_json(str(source / SUMMARY))
        for case in summary["metric_per_case"]:
            case["prediction_file"] = str(target / os.path.basename(case["prediction_file"]))
        joint["metric_per_case"] += summary["metric_per_case"]
        joint["mean"].update(summary["mean"])
        for file in source.iterdir():
            if file.name != SUMMARY:
                shutil.move(str(file), target / file.name)
    metrics = next(iter(joint["mean"].values()))
    joint["foreground_mean"] = {m: float(np.mean([v[m] for v in joint["mean"].values()])) for m in metrics}
    save_summary_json(joint, str(target / SUMMARY))
    return {str(label): values["Dice"] for label, values in joint["mean"].items()}


class OwnLabels:
    """nnU-Net's label manager with the foreground of one task; all else is the original's."""

    def __init__(self, label_manager: Any, prompts: list[int]) -> None:
        self._label_manager = label_manager
        if label_manager.has_regions:
            self.foreground_regions = [label_manager.foreground_regions[k] for k in prompts]
        else:
            self.foreground_labels = [label_manager.foreground_labels[k] for k in prompts]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._label_manager, name)
