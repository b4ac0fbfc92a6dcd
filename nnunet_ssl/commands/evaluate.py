"""Dice, Jaccard, 95HD and ASD of a folder of predictions.

Each case is scored on the labels of its own task. The dataset is described by -djfile or -d, or else by the
dataset.json that nnUNetv2_predict puts beside its predictions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from nnunet_ssl.conversion.dataset_json import (
    dataset_folder,
    existing_folder,
    find_dataset,
    read_json,
    write_json_atomically,
)
from nnunet_ssl.errors import DataError

HELP = "score predictions: Dice, Jaccard, 95HD, ASD for each label"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``nnUNetv2_ssl evaluate``."""
    parser.add_argument(
        "-ref", type=Path, required=True, metavar="FOLDER", help="label files to score against"
    )
    parser.add_argument(
        "-pred", type=Path, required=True, metavar="FOLDER", help="predicted files, named the same"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-d", metavar="ID", help="number or name of the dataset")
    source.add_argument(
        "-djfile", type=Path, metavar="FILE", help="its dataset.json (default: the one beside -pred)"
    )
    parser.add_argument(
        "-o", type=Path, metavar="FILE", help="JSON with every case (default: PRED/evaluation.json)"
    )
    parser.add_argument("-np", type=int, metavar="N", help="worker processes (default: nnU-Net's)")
    parser.add_argument(
        "--unit", choices=("mm", "voxel"), default="mm", help="unit of the distances (default: mm)"
    )
    parser.add_argument("--chill", action="store_true", help="score what is predicted, warn about the rest")


def run(args: argparse.Namespace) -> None:
    """Score, print the table, write the JSON file.

    Raises:
        DataError: files are missing or do not fit together.
    """
    from nnunetv2.configuration import default_num_processes

    from nnunet_ssl.evaluation.folder import evaluate_folder
    from nnunet_ssl.evaluation.table import show, to_json

    dataset_json = _dataset_json(args)
    processes = default_num_processes if args.np is None else args.np
    evaluation = evaluate_folder(args.ref, args.pred, dataset_json, args.unit, processes, args.chill)
    for warning in evaluation.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    output = args.o or args.pred / "evaluation.json"
    _write(output, {"reference": str(args.ref), "prediction": str(args.pred), **to_json(evaluation)})
    print(show(evaluation))
    print(f"Every case: {output}")


def _write(output: Path, content: dict[str, Any]) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(output, content)
    except OSError as error:
        raise DataError(
            f"{output} cannot be written ({error.strerror}). Name another file with -o."
        ) from error


def _dataset_json(args: argparse.Namespace) -> dict[str, Any]:
    """The dataset's description, from wherever the user points to."""
    file = _described_by(args)
    content = read_json(file)
    lacking = [key for key in ("labels", "file_ending") if key not in content]
    if lacking:
        raise DataError(
            f"{file} lacks {' and '.join(repr(key) for key in lacking)}: it is no dataset.json of nnU-Net."
        )
    return dict(content)


def _described_by(args: argparse.Namespace) -> Path:
    if args.djfile is not None:
        return Path(args.djfile)
    if args.d is not None:
        name = find_dataset(args.d)
        # The raw data may be elsewhere where only the preprocessed ones were copied for training
        folder = existing_folder("raw", name) or dataset_folder("preprocessed", name)
        return folder / "dataset.json"
    beside = Path(args.pred) / "dataset.json"
    if not beside.is_file():
        raise DataError(
            f"There is no dataset.json in {args.pred}. Name the dataset with -d or its file with -djfile."
        )
    return beside
