"""Train several trainers on the same fold and put their validation side by side.

    python benchmarks/compare_trainers.py -d 501 -c 3d_fullres -p nnUNetPlans_bench -f 0 \
        -tr nnUNetTrainerSSLSupervised nnUNetTrainerVerSemi -device cuda --jobs 2 -o out.json

Each training is the stock command ``nnUNetv2_train``; budget and network come from the plans, so they are
equal. The final checkpoint is validated on the fold's validation cases, which no training chose anything on.
A training whose validation summary exists is not repeated. Several datasets (``-d 501 503``) make one table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_ssl.data.dataset_json import find_dataset
from nnunet_ssl.json_files import read_json
from nnunet_ssl.tables import format_table


@dataclass(frozen=True)
class Run:
    """One training."""

    dataset: str
    configuration: str
    plans: str
    fold: str
    trainer: str

    @property
    def folder(self) -> Path:
        """nnU-Net's result folder of the fold."""
        model = f"{self.trainer}__{self.plans}__{self.configuration}"
        return Path(os.environ["nnUNet_results"]) / self.dataset / model / f"fold_{self.fold}"

    @property
    def summary(self) -> Path:
        """Validation summary of the final checkpoint."""
        return self.folder / "validation" / "summary.json"


def train(run: Run, device: str) -> int:
    """Train and validate one run by the stock command; returns its exit status."""
    if run.summary.is_file():
        return 0
    command = ["nnUNetv2_train", run.dataset, run.configuration, run.fold, "-p", run.plans]
    command += ["-tr", run.trainer, "-device", device]
    print(" ".join(command), flush=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / "command.log", "w") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode


def validation_dice(run: Run) -> dict[str, float]:
    """Mean Dice of every label over the validation cases."""
    labels = read_json(run.folder.parent / "dataset.json")["labels"]
    names = {str(tuple(v) if isinstance(v, list) else v): name for name, v in labels.items()}
    means = read_json(run.summary)["mean"]
    return {names[key]: values["Dice"] for key, values in means.items()}


def main() -> int:
    """Train what is missing, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-d", nargs="+", required=True, help="dataset ids")
    parser.add_argument("-c", default="3d_fullres", help="configuration")
    parser.add_argument("-p", required=True, nargs="+", help="plans")
    parser.add_argument("-f", default=["0"], nargs="+", help="folds")
    parser.add_argument("-tr", nargs="+", required=True, help="trainers")
    parser.add_argument("-device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time")
    parser.add_argument("-o", type=Path, help="JSON file")
    args = parser.parse_args()
    runs = [
        Run(find_dataset(d), args.c, p, f, tr)
        for d in args.d
        for p in args.p
        for f in args.f
        for tr in args.tr
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        statuses = list(pool.map(lambda run: train(run, args.device), runs))
    rows, records = [], []
    for run, status in zip(runs, statuses, strict=True):
        record: dict[str, Any] = {**asdict(run), "exit_status": status}
        if run.summary.is_file():
            record["dice"] = dice = validation_dice(run)
            cells = ", ".join(f"{name} {value:.4f}" for name, value in dice.items())
            rows.append(
                [
                    run.dataset,
                    run.plans,
                    run.fold,
                    run.trainer,
                    f"{sum(dice.values()) / len(dice):.4f}",
                    cells,
                ]
            )
        else:
            rows.append(
                [run.dataset, run.plans, run.fold, run.trainer, "failed", f"see {run.folder}/command.log"]
            )
        records.append(record)
    print(format_table(rows, ["dataset", "plans", "fold", "trainer", "mean Dice", "by label"]))
    if args.o:
        device = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "CPU"
        args.o.write_text(
            json.dumps({"device": device, "torch": torch.__version__, "runs": records}, indent=1)
        )
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
