"""Dice, Jaccard, 95HD and ASD of a folder of predictions, or two folders compared.

Each case is scored on the labels of its own task. The dataset is described by -djfile or -d, or else by the
dataset.json that nnUNetv2_predict puts beside its predictions. Cases that cannot be scored are named at the
end, with exit status 2; the others are scored all the same.

--compare A B pairs the cases of two models: mean difference B - A with its 95 % interval and Wilcoxon's test,
for each label and overall. A and B are folders that were evaluated before, their evaluation.json files, or,
with -ref, folders to evaluate first.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ssl.data.dataset_json import dataset_folder, existing_folder, find_dataset, read_dataset_json
from nnunet_ssl.errors import ConfigError, DataError, listing
from nnunet_ssl.json_files import read_json, write_json_atomically

if TYPE_CHECKING:
    from nnunet_ssl.evaluation.folder import Evaluation

HELP = "score predictions: Dice, Jaccard, 95HD, ASD for each label; compare two models"
FILE_NAME = "evaluation.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``nnUNetv2_ssl evaluate``."""
    parser.add_argument("-ref", type=Path, metavar="FOLDER", help="label files to score against")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-pred", type=Path, metavar="FOLDER", help="predicted files, named the same")
    what.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A", "B"), help="compare two models, case by case"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-d", metavar="ID", help="number or name of the dataset")
    source.add_argument(
        "-djfile", type=Path, metavar="FILE", help="its dataset.json (default: the one beside -pred)"
    )
    parser.add_argument(
        "-o",
        type=Path,
        metavar="FILE",
        help="JSON with every case, and beside it the same as CSV (default: PRED/evaluation.json); with "
        "--compare the comparison (default: not written)",
    )
    parser.add_argument("-np", type=int, metavar="N", help="worker processes (default: nnU-Net's)")
    parser.add_argument(
        "--unit", choices=("mm", "voxel", "both"), default="mm", help="unit of the distances (default: mm)"
    )
    parser.add_argument(
        "--group-regex",
        metavar="RE",
        help="names the patient in a case's name: intervals and tests keep a patient's cases together",
    )
    parser.add_argument("--chill", action="store_true", help="score what is predicted, warn about the rest")


def run(args: argparse.Namespace) -> None:
    """Score or compare, print the table, write the files.

    Raises:
        DataError: files are missing or do not fit together.
    """
    if args.o is not None and args.o.suffix != ".json":
        raise ConfigError(f"-o: expected a name that ends in .json, got {args.o}. The CSV is put beside it.")
    if args.compare is not None:
        _compare(args)
        return
    if args.ref is None:
        raise ConfigError("-ref FOLDER is needed: the label files to score the predictions against.")
    from nnunet_ssl.evaluation.export import csv_rows
    from nnunet_ssl.evaluation.table import show

    output = args.o or args.pred / FILE_NAME
    evaluation = _evaluate(args, args.pred)
    print(show(evaluation))  # first, so that it is seen where nothing can be written
    _write(output, _content(args, args.pred, evaluation), csv_rows(evaluation))
    print(f"Every case: {output} and {output.with_suffix('.csv')}")
    if evaluation.problems:
        raise DataError(listing(f"{args.pred} is not fully scored against {args.ref}:", evaluation.problems))


def _evaluate(args: argparse.Namespace, prediction: Path) -> Evaluation:
    """Score a folder."""
    from nnunetv2.configuration import default_num_processes

    from nnunet_ssl.evaluation.folder import evaluate_folder

    dataset_json = _dataset_json(args, prediction)
    processes = default_num_processes if args.np is None else args.np
    evaluation = evaluate_folder(
        args.ref, prediction, dataset_json, args.unit, processes, args.chill, args.group_regex
    )
    for warning in evaluation.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    return evaluation


def _content(args: argparse.Namespace, prediction: Path, evaluation: Evaluation) -> dict[str, Any]:
    """What ``evaluation.json`` holds."""
    from nnunet_ssl.evaluation.export import to_json

    return {"reference": str(args.ref), "prediction": str(prediction), **to_json(evaluation)}


def _compare(args: argparse.Namespace) -> None:
    from nnunet_ssl.evaluation.compare import compare
    from nnunet_ssl.evaluation.export import comparison_json
    from nnunet_ssl.evaluation.scores import scores_from_json
    from nnunet_ssl.evaluation.table import show_comparison

    files = [path / FILE_NAME if path.is_dir() else path for path in args.compare]
    contents = [_scored(args, *pair) for pair in zip(args.compare, files, strict=True)]
    problems = [text for content in contents if args.ref is not None for text in content["problems"]]
    unscored = listing(f"Not everything could be scored against {args.ref}:", problems) if problems else ""
    scores = (scores_from_json(c, str(file)) for c, file in zip(contents, files, strict=True))
    one, other = (of_model.grouped(args.group_regex) for of_model in scores)
    unpaired = sorted(set(one.cases) ^ set(other.cases))
    if unpaired:
        print(f"Warning: scored for one of the two only, left out: {', '.join(unpaired)}", file=sys.stderr)
    try:
        comparisons = compare(one, other)
    except DataError as error:  # what is missing may be why
        raise DataError(f"{error}\n{unscored}".rstrip()) from error
    names = str(args.compare[0]), str(args.compare[1])
    print(show_comparison(comparisons, names, one.unit))
    if args.o is not None:
        rows = comparison_json(comparisons)
        _write(args.o, {"A": names[0], "B": names[1], "unit": one.unit, "rows": rows}, rows)
    if unscored:
        raise DataError(unscored)


def _scored(args: argparse.Namespace, path: Path, file: Path) -> Any:
    """Content of ``file``; with -ref, the folder ``path`` is scored for it, and kept in it if that can be."""
    from nnunet_ssl.evaluation.export import csv_rows

    if args.ref is None:
        if not file.is_file():
            raise DataError(f"{file} does not exist. Add -ref LABELS to score both folders first.")
        return read_json(file)
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder of predictions, since -ref asks to score them.")
    evaluation = _evaluate(args, path)
    content = _content(args, path, evaluation)
    try:
        _write_files(file, content, csv_rows(evaluation))
    except OSError as error:  # the comparison, which is what was asked for, needs no file
        print(
            f"Warning: {file} cannot be written ({error.strerror}), so its scores are not kept.",
            file=sys.stderr,
        )
    return content


def _write(output: Path, content: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write what ``-o`` names."""
    try:
        _write_files(output, content, rows)
    except OSError as error:
        raise DataError(
            f"{output} cannot be written ({error.strerror}). Name another file with -o."
        ) from error


def _write_files(output: Path, content: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the JSON, and rows beside it as CSV."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(output, content)
    _write_csv(output.with_suffix(".csv"), rows)


def _write_csv(output: Path, rows: list[dict[str, Any]]) -> None:
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _dataset_json(args: argparse.Namespace, prediction: Path) -> dict[str, Any]:
    """The dataset's description, from wherever the user points to."""
    if args.djfile is not None:
        return read_dataset_json(Path(args.djfile))
    if args.d is not None:
        name = find_dataset(args.d)
        # The raw data may be elsewhere where only the preprocessed ones were copied for training
        folder = existing_folder("raw", name) or dataset_folder("preprocessed", name)
        return read_dataset_json(folder)
    beside = prediction / "dataset.json"
    if not beside.is_file():
        raise DataError(
            f"There is no dataset.json in {prediction}. Name the dataset with -d or its file with -djfile."
        )
    return read_dataset_json(beside)
