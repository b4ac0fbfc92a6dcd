"""Show the whole way, from nothing: draw phantom scans of two tasks, train, predict, score, report.

A baseline and nnUNetTrainerVerSemi get the same few labelled scans and the same number of updates; VerSemi
sees unlabelled scans as well. It is a benchmark like one on your own data. Takes 6 to 12 minutes on 2
cores. Run again after an interruption, it goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ssl.errors import DataError

HELP = "train and compare on phantom scans, from nothing, in minutes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``nnUNetv2_ssl demo``."""
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="everything goes here")
    parser.add_argument(
        "-device", choices=("cuda", "cpu", "mps"), help="default: cuda if there is one, else cpu"
    )
    parser.add_argument(
        "--fast", action="store_true", help="a few updates only: does it run? The scores mean nothing"
    )


def run(args: argparse.Namespace) -> None:
    """Run the sequence and print a table.

    Raises:
        DataError: the folder holds something else.
        StepFailedError: a command failed.
    """
    from nnunet_ssl.demo.sequence import FAST, Budget, Workplace, demo_steps
    from nnunet_ssl.report.results import read_results
    from nnunet_ssl.report.tables import label_rows
    from nnunet_ssl.steps import run_steps
    from nnunet_ssl.tables import format_table

    folder = _demo_folder(args.o)
    place = Workplace(folder)
    steps = demo_steps(place, args.device or _default_device(), FAST if args.fast else Budget())
    seconds = run_steps(steps, folder, place.environment())
    print(f"\nThe test scans, after {sum(seconds) / 60:.1f} minutes:")
    table = label_rows(read_results(place.benchmark))
    if table is not None:
        print(format_table(table["rows"], table["header"]))


def _demo_folder(folder: Path) -> Path:
    """The folder, made if need be; only an empty one or that of an earlier demo is accepted."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "stamps").is_dir():
        raise DataError(
            f"{folder} holds other files. Give a new or empty folder, or that of an earlier demo."
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stamps").mkdir(exist_ok=True)
    return folder.resolve()


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
