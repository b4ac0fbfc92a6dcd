"""A trained model as an ordinary nnU-Net model folder or zip.

What is exported is what nnU-Net's predictor loads: training-only parts, optimiser, random state and logs stay
behind. Where the network that predicts is the one that the plans alone describe, the copy is a model of
``nnUNetTrainer`` and needs no plugin; that is found by comparing the two networks, not by the trainer's name.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn

from nnunet_ssl import __version__
from nnunet_ssl.conversion.merge_files import place_file
from nnunet_ssl.data.dataset_json import read_dataset_json
from nnunet_ssl.errors import ConfigError, DataError, TaskError
from nnunet_ssl.inference.choice import choose
from nnunet_ssl.inference.exported import (
    Description,
    as_prompted,
    as_stock,
    cut_channels,
    is_stock,
    state_shapes,
    stock_network,
)
from nnunet_ssl.inference.prompts import TASK_VARIABLE
from nnunet_ssl.inference.sentences import WISHES
from nnunet_ssl.json_files import read_json, write_json_atomically
from nnunet_ssl.tasks import TaskTable
from nnunet_ssl.training.networks import bare_network

RECORD = "nnunet_ssl_export.json"


@dataclass(frozen=True)
class Source:
    """What is to be exported.

    Attributes:
        folder: nnU-Net's model folder, with plans.json and fold_X.
        folds: numbers, or ``all``.
        checkpoint: file in each fold.
        task: name of a task or a label; ``None`` for all.
        settings: options of prediction that are to replace the trained model's, as text.
    """

    folder: Path
    folds: tuple[str, ...]
    checkpoint: str
    task: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def export_model(source: Source, output: Path) -> tuple[Description, Description]:
    """Write the model to a folder, or to a zip that nnU-Net installs if ``output`` ends in .zip.

    Returns:
        What the original and the exported model say of themselves.

    Raises:
        ConfigError: ``output`` exists or cannot be written, the model's trainer cannot be found, or a setting
            is none of prediction.
        DataError: a file of the model is missing or broken.
        TaskError: the task is unknown; the message lists what there is.
    """
    if output.exists():
        raise ConfigError(f"-o: {output} exists already. Choose another name, or remove it.")
    plans, dataset_json = dict(read_json(source.folder / "plans.json")), read_dataset_json(source.folder)
    checkpoint = load_checkpoint(source, source.folds[0])
    original = Description(
        checkpoint["trainer_name"], checkpoint["init_args"]["configuration"], plans, dataset_json
    )
    task = source.task
    if task is not None and len(original.table.resolve(task)) == len(original.table.prompts):
        task = None  # it is all that there is
    chosen = choose(original, source.settings) if source.settings else original
    with _under_plans(source, chosen.plans) as described:
        network = prediction_network(described, chosen.table)
    made = (as_stock if is_stock(network, stock_network(chosen)) else as_prompted)(chosen, task)
    try:
        with _staged(output, made.identifier) as folder:
            _write(source, made, network, folder)
    except OSError as error:
        raise ConfigError(f"-o: {output} cannot be written ({error}). Choose another place.") from error
    return original, made


# Reading


def find_folds(folder: Path, wanted: Sequence[str] | None, checkpoint: str) -> tuple[str, ...]:
    """Folds that hold the checkpoint, as nnU-Net picks them: those with a number, or else ``all``.

    Raises:
        DataError: a wanted one is missing, or there is none.
    """
    there = {p.parent.name.removeprefix("fold_") for p in folder.glob(f"fold_*/{checkpoint}")}
    numbers = sorted((f for f in there if f.isdigit()), key=int)
    folds = list(wanted) if wanted is not None else numbers or sorted(there)
    missing = [f for f in folds if f not in there]
    if missing or not folds:
        files = sorted(str(p.relative_to(folder)) for p in folder.glob("fold_*/checkpoint_*.pth"))
        lacking = f"fold(s) {', '.join(missing)}" if missing else "any fold"
        raise DataError(
            f"Expected {checkpoint} in {lacking} of {folder}, which holds {', '.join(files) or 'none'}. "
            "Name folds with -f and the file with --checkpoint, or finish the training."
        )
    return tuple(folds)


def load_checkpoint(source: Source, fold: str) -> dict[str, Any]:
    """A checkpoint of nnU-Net, in the memory of the CPU.

    Raises:
        DataError: it cannot be read.
    """
    path = source.folder / f"fold_{fold}" / source.checkpoint
    try:
        checkpoint = dict(torch.load(path, map_location="cpu", weights_only=False))
        missing = [k for k in ("network_weights", "init_args", "trainer_name") if k not in checkpoint]
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} cannot be read as a checkpoint ({error}). Copy or train it anew.") from error
    if missing:
        raise DataError(f"{path} is no checkpoint of nnU-Net: it lacks {', '.join(missing)}.")
    return checkpoint


def prediction_network(source: Source, table: TaskTable) -> nn.Module:
    """What nnU-Net's predictor builds and loads, in the first of the folds.

    Wishes in the environment do not enter. A network that answers one task at a time must be asked for one
    to be built at all; its weights are the same for all.
    """
    try:
        with _environment_without_wishes(None):
            return _predictors_network(source)
    except TaskError:
        with _environment_without_wishes(table.tasks[0].name):
            return _predictors_network(source)


def _predictors_network(source: Source) -> nn.Module:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
            predictor.initialize_from_trained_model_folder(
                str(source.folder), (source.folds[0],), source.checkpoint
            )
    except RuntimeError as error:
        raise ConfigError(f"nnU-Net cannot load the model in {source.folder}: {error}") from error
    network: nn.Module = bare_network(predictor.network)
    return network


@contextlib.contextmanager
def _under_plans(source: Source, plans: Mapping[str, Any]) -> Iterator[Source]:
    """The model's first fold under other plans, for nnU-Net's predictor, which reads a folder.

    Raises:
        ConfigError: the network of these plans cannot load the weights.
    """
    if not source.settings:
        yield source
        return
    with tempfile.TemporaryDirectory() as name:
        folder, checkpoint = Path(name), Path(f"fold_{source.folds[0]}", source.checkpoint)
        (folder / checkpoint.parent).mkdir()
        place_file(source.folder / checkpoint, folder / checkpoint, copy=False)
        shutil.copyfile(source.folder / "dataset.json", folder / "dataset.json")
        write_json_atomically(folder / "plans.json", plans)
        try:
            yield replace(source, folder=folder)
        except ConfigError as error:
            wanted = " ".join(f"{key}={value}" for key, value in source.settings.items())
            raise ConfigError(
                f"--set {wanted}: {source.folder} lacks weights that this needs. A model that was exported "
                "holds only what it predicts with: name the training's own folder."
            ) from error


@contextlib.contextmanager
def _environment_without_wishes(task: str | None) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in WISHES if name in os.environ}
    if task is not None:
        os.environ[TASK_VARIABLE] = task
    try:
        yield
    finally:
        os.environ.pop(TASK_VARIABLE, None)
        os.environ.update(before)


# Writing


@contextlib.contextmanager
def _staged(output: Path, identifier: str) -> Iterator[Path]:
    """A folder beside ``output`` that becomes it, or is zipped into it, once it is complete."""
    output.parent.mkdir(parents=True, exist_ok=True)
    stage = output.parent / f".{output.name}.{os.getpid()}.tmp"
    model = stage / identifier
    try:
        model.mkdir(parents=True)
        yield model
        if output.suffix == ".zip":
            _zip(stage, stage / "model.zip")
            os.replace(stage / "model.zip", output)
        else:
            os.replace(model, output)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _zip(folder: Path, target: Path) -> None:
    """Names in the archive are relative to nnUNet_results, as nnU-Net's own export has them."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))


def _write(source: Source, made: Description, network: nn.Module, folder: Path) -> None:
    shapes = state_shapes(stock_network(made)) if made.channels else {}
    for fold in source.folds:
        checkpoint = load_checkpoint(source, fold)
        network.load_state_dict(checkpoint["network_weights"])
        weights = dict(network.state_dict())
        if made.channels:
            weights = cut_channels(weights, shapes, made.channels)
        target = folder / f"fold_{fold}" / source.checkpoint
        target.parent.mkdir()
        torch.save(_for_prediction(checkpoint, made, weights), target)
    write_json_atomically(folder / "plans.json", made.plans)
    write_json_atomically(folder / "dataset.json", made.dataset_json)
    write_json_atomically(folder / RECORD, _record(source, made))
    for name in _companions(source, made):
        if (source.folder / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            shutil.copyfile(source.folder / name, folder / name)


def _for_prediction(
    checkpoint: Mapping[str, Any], made: Description, weights: dict[str, Tensor]
) -> dict[str, Any]:
    """What nnU-Net's predictor, and its -pretrained_weights, read of a checkpoint."""
    described = {"plans": made.plans, "dataset_json": made.dataset_json}
    return {
        "network_weights": weights,
        "init_args": {**checkpoint["init_args"], **described},
        "trainer_name": made.trainer,
        "inference_allowed_mirroring_axes": checkpoint.get("inference_allowed_mirroring_axes"),
    }


def _companions(source: Source, made: Description) -> list[str]:
    """Files that nnU-Net's own export takes along; scores only if the model predicts as it did."""
    names = ["dataset_fingerprint.json", *(f"fold_{fold}/progress.png" for fold in source.folds)]
    if made.task is None and made.channels is None and not source.settings:
        names += [f"fold_{fold}/validation/summary.json" for fold in source.folds]
        joint = f"crossval_results_folds_{'_'.join(source.folds)}"
        names += [f"{joint}/{name}" for name in ("summary.json", "postprocessing.pkl", "postprocessing.json")]
    return names


def _record(source: Source, made: Description) -> dict[str, Any]:
    """Where the model comes from, for people."""
    return {
        "exported_with": f"nnunet-ssl {__version__}",
        "from": f"{source.folder.resolve().parent.name}/{source.folder.resolve().name}",
        "folds": list(source.folds),
        "checkpoint": source.checkpoint,
        "task": source.task,
        "set": dict(source.settings),
        "labels": made.labels,
    }
