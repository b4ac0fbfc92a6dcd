"""Make an ordinary nnU-Net model of a trained one: a folder or a zip, for all labels or for one task.

Training-only parts, optimiser state and logs stay behind. Where the network that predicts is nnU-Net's own,
the copy is a model of nnUNetTrainer and needs no plugin on the other machine; a single task's labels are then
numbered 1, 2, ... A model that is prompted keeps its trainer, needs the plugin, and keeps its label values.
The model is named by -d, -c and -tr (and -p), or by its folder (-m). --set makes a copy that predicts in
another way without a new training, such as --set propl_decoder=mean.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_ssl.inference.exported import Description

HELP = "make an ordinary nnU-Net model, folder or zip, of a trained one"
CHECKPOINT = "checkpoint_final.pth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``nnUNetv2_ssl export``."""
    parser.add_argument("-d", metavar="ID", help="dataset number or name")
    parser.add_argument("-c", metavar="CONFIG", help="configuration")
    parser.add_argument("-tr", metavar="TRAINER", help="trainer")
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="plans (default: %(default)s)")
    parser.add_argument("-m", type=Path, metavar="FOLDER", help="model folder, instead of -d -c -tr -p")
    parser.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds (default: those with a number that are finished, or all)"
    )
    parser.add_argument(
        "-chk",
        "--checkpoint",
        default=CHECKPOINT,
        metavar="FILE",
        help="file in each fold (default: %(default)s)",
    )
    parser.add_argument("--task", metavar="NAME", help="export this task's labels, or this label, only")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options that only prediction reads: propl_decoder, inference_branches",
    )
    parser.add_argument(
        "-o",
        type=Path,
        required=True,
        metavar="FOLDER_OR_ZIP",
        help="what to write; a zip if it ends in .zip",
    )


def run(args: argparse.Namespace) -> None:
    """Export, print the labels and how to predict."""
    folder = model_folder(args.d, args.c, args.tr, args.p, args.m)
    from nnunet_ssl.conversion.plans import parse_settings
    from nnunet_ssl.inference.export import Source, export_model, find_folds
    from nnunet_ssl.inference.exported import STOCK_TRAINER
    from nnunet_ssl.tables import format_table

    folds = find_folds(folder, args.f, args.checkpoint)
    source = Source(folder, folds, args.checkpoint, args.task, parse_settings(args.set))
    original, made = export_model(source, args.o)
    rows = [(name, original.labels[name], value) for name, value in made.labels.items()]
    print(format_table([tuple(map(str, row)) for row in rows], ["label", "value before", "value now"]))
    print(f"Wrote {args.o} ({_size(args.o)}), fold(s) {', '.join(folds)}, trainer {made.trainer}.")
    if made.trainer != STOCK_TRAINER:
        print("Its network is not nnU-Net's own: the other machine needs nnunet-ssl.")
    print("Predict with it:")
    for line in prediction_commands(args.o, made, folds, args.checkpoint):
        print(f"  {line}")


def model_folder(
    dataset: str | None, configuration: str | None, trainer: str | None, plans: str, folder: Path | None
) -> Path:
    """The model folder that the arguments name.

    Raises:
        ConfigError: they name none, or two.
        DataError: it does not exist; the message lists the models that do.
    """
    from nnunet_ssl.data.dataset_json import find_dataset
    from nnunet_ssl.errors import ConfigError, DataError

    if folder is not None and (dataset, configuration, trainer) == (None, None, None):
        if not (folder / "plans.json").is_file():
            raise DataError(f"-m: {folder} is no model folder of nnU-Net: it has no plans.json.")
        return folder
    if folder is not None or dataset is None or configuration is None or trainer is None:
        raise ConfigError("Name the model either with -d, -c and -tr (and -p), or with its folder (-m).")
    of_dataset = _results() / find_dataset(dataset)
    folder = of_dataset / f"{trainer}__{plans}__{configuration}"
    if not (folder / "plans.json").is_file():
        there = ", ".join(sorted(p.parent.name for p in of_dataset.glob("*/plans.json"))) or "none"
        raise DataError(f"Expected a trained model in {folder}. Models of the dataset: {there}.")
    return folder


def _results() -> Path:
    from nnunet_ssl.errors import DataError

    value = os.environ.get("nnUNet_results")
    if not value:
        raise DataError(
            "nnUNet_results is not set. Set it to the folder of your models, or name one with -m."
        )
    return Path(value)


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return f"{sum(p.stat().st_size for p in files) / 1e6:.1f} MB"


def prediction_commands(
    output: Path, made: Description, folds: tuple[str, ...], checkpoint: str
) -> list[str]:
    """The stock commands that use the exported model, as one types them into a shell."""
    last = ["-f", *folds, *(["-chk", checkpoint] if checkpoint != CHECKPOINT else [])]
    io = ["-i", "IN", "-o", "OUT"]
    if output.suffix != ".zip":
        return [shlex.join(["nnUNetv2_predict_from_modelfolder", *io, "-m", str(output), *last])]
    dataset, model = made.identifier.split("/")
    trainer, plans, configuration = model.split("__")
    named = ["-d", dataset, "-c", configuration, "-p", plans, "-tr", trainer]
    return [
        shlex.join(["nnUNetv2_install_pretrained_model_from_zip", str(output)]),
        shlex.join(["nnUNetv2_predict", *io, *named, *last]),
    ]
