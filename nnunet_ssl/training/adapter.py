"""The one place that overrides nnU-Net's trainer.

It brings a ``Method`` into nnU-Net's loop: unlabelled batches beside labelled ones, loss terms as curves,
extra state in checkpoints, and judging each case on its own task's labels.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.configuration import default_num_processes
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.helpers import dummy_context
from torch import autocast
from torch import distributed as dist

from nnunet_ssl.config import TrainingConfig, resolve
from nnunet_ssl.data.dataset_json import existing_folder
from nnunet_ssl.data.preprocessing import Recipe
from nnunet_ssl.data.two_stream import (
    Augmenter,
    TwoStream,
)
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.inference.prompts import TASK_VARIABLE, restrict_output, task_channels
from nnunet_ssl.methods import CONFIGS
from nnunet_ssl.methods.base import Batch, Method, Terms, total_loss
from nnunet_ssl.targets import LabelSpace
from nnunet_ssl.tasks import BLOCK, TaskTable
from nnunet_ssl.training.cases import (
    Folders,
    bring_up_to_date,
    check_tasks,
    unlabeled_files,
)
from nnunet_ssl.training.checks import check_batch, check_known_tasks, check_no_cascade, method_options
from nnunet_ssl.training.curves import TERM, WEIGHT, ended, plot_terms
from nnunet_ssl.training.loaders import make_loaders
from nnunet_ssl.training.monitor import Monitor, start_monitor
from nnunet_ssl.training.networks import bare_network, stock_network
from nnunet_ssl.training.previews import save_previews
from nnunet_ssl.training.random_state import seed_everything
from nnunet_ssl.training.resume import (
    check_network,
    check_options,
    read_state,
    restore_random_numbers,
    save_with_state,
)
from nnunet_ssl.training.validation import OwnLabels, merge_task_validations

_PATIENCE = timedelta(days=7)  # of processes that wait for the preprocessing of imagesUn


class SSLTrainer(nnUNetTrainer, ABC):
    """nnU-Net trainer that asks a method for its losses.

    A final trainer names its ``method_config_class`` and builds its method, and its network where that is
    another; it overrides nothing else.
    """

    method_config_class: ClassVar[type]
    build_network_architecture = staticmethod(stock_network)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net's signature)
    ) -> None:
        check_no_cascade(type(self), plans, configuration)
        options = plans.get(BLOCK, {}).get("options", {})
        self.training_config = resolve(TrainingConfig, options, CONFIGS)
        self.method_config = method_options(type(self), plans)
        self.task_table = TaskTable.from_dataset_json(dataset_json)
        # Prediction sees the plans only: what the network needs to be built must be there.
        self._network_parts = self.network_plans(self.method_config, self.task_table)
        plans[BLOCK] = {
            **plans.get(BLOCK, {}),
            "labels": dataset_json["labels"],
            "tasks": self.task_table.to_json(),
            **self._network_parts,
        }
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.label_manager: Any
        self.dataset_class: Any
        self.output_folder: str
        if os.environ.pop(TASK_VARIABLE, None):
            self.print_to_log_file(f"{TASK_VARIABLE} concerns prediction only and is ignored in training.")
        self.space = LabelSpace(self.task_table, self.label_manager.ignore_label)
        for name in (
            "num_epochs",
            "num_iterations_per_epoch",
            "num_val_iterations_per_epoch",
            "initial_lr",
            "weight_decay",
            "oversample_foreground_percent",
            "save_every",
        ):
            setattr(self, name, getattr(self.training_config, name))
        self.generator = torch.Generator()
        self.method: Method  # once initialized
        self._iteration = 0
        self._last_batch: Batch | None = None  # of the epoch, for previews
        self.monitor: Monitor | None = None  # in training, of the first process
        self._labeled_cases: Any = None  # nnU-Net's dataset, once there are loaders
        self._resumed_state: dict[str, Any] | None = None
        self._validated_task: int | None = None

    # What a final trainer provides

    @abstractmethod
    def build_method(self) -> Method:
        """The method, once network and loss exist."""

    @staticmethod
    def network_plans(config: Any, table: TaskTable) -> dict[str, Any]:
        """Entries for ``plans["nnunet_ssl"]`` that ``build_network_architecture`` reads."""
        return {}

    # Start

    def initialize(self) -> None:
        """Seed, then build network, optimiser and loss as nnU-Net does, then the method."""
        self._seed(self.local_rank)
        super().initialize()
        if self.is_ddp:
            # Buffers are constants and counters, alike in all processes. nnU-Net's validation calls the
            # network unequally often in each, so a broadcast with every call would wait for ever.
            self.network.broadcast_buffers = False
        if self.is_ddp and len(self.task_table) > 1:
            # Processes hold different tasks in a step, so a Dice gathered over them would mix classes.
            for module in self.loss.modules():
                if hasattr(module, "ddp"):
                    module.ddp = False
        self.method = self.build_method()
        check_batch(type(self), self.method, self.batch_size, self._unlabeled_batch_size())

    def _seed(self, offset: int) -> None:
        """Begin all random numbers of this process anew, with the seed asked for or any."""
        seed = self.training_config.seed
        if seed is None:
            self.generator.seed()
        else:
            seed_everything(seed + offset)
            self.generator.manual_seed(seed + offset)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """nnU-Net's SGD and poly schedule, or what the options say."""
        config, parameters = self.training_config, self.network.parameters()
        optimizer: torch.optim.Optimizer
        if config.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                parameters, config.initial_lr, weight_decay=config.weight_decay, momentum=0.99, nesterov=True
            )
        else:
            kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
            optimizer = kind(parameters, config.initial_lr, weight_decay=config.weight_decay)
        exponent = 0.9 if config.lr_schedule == "poly" else 0.0
        return optimizer, PolyLRScheduler(optimizer, config.initial_lr, config.num_epochs, exponent=exponent)

    @property
    def scale_weights(self) -> tuple[float, ...]:
        """nnU-Net's weight of each resolution, full resolution first."""
        return tuple(float(w) for w in getattr(self.loss, "weight_factors", (1.0,)))

    def on_train_start(self) -> None:
        """Check data, bring imagesUn up to date, then start as nnU-Net does."""
        if not self.was_initialized:
            self.initialize()
        if self._resumed_state is not None:
            check_options(self._resumed_state, self._resolved_options())
        if self.method.uses_unlabeled and self.local_rank == 0:
            recipe = Recipe(
                self.plans_manager.plans, self.configuration_name, self.dataset_json, self.folders.unlabeled
            )
            bring_up_to_date(self.folders, recipe, default_num_processes, self.print_to_log_file)
        if self.is_ddp:
            # By a group of its own: nnU-Net's gives up after ten minutes, and many scans take longer
            everyone: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
            dist.barrier(group=everyone)
        super().on_train_start()
        if self.local_rank == 0:
            save_json(
                self._resolved_options(), os.path.join(self.output_folder, "ssl_config.json"), sort_keys=False
            )
            self.monitor = start_monitor(self, self._labeled_cases)
        self.print_to_log_file("Options:", self._resolved_options(), add_timestamp=False)
        if self._resumed_state is not None:
            if self.local_rank == 0:  # whose numbers were saved
                restore_random_numbers(self._resumed_state, self.generator)
            else:  # not once more those of the first epochs
                self._seed(self.local_rank + self.current_epoch * dist.get_world_size())
        self._resumed_state = None

    @property
    def folders(self) -> Folders:
        """Where this training's data lies."""
        return Folders(
            preprocessed=Path(self.preprocessed_dataset_folder_base),
            labeled=Path(self.preprocessed_dataset_folder),
            raw=existing_folder("raw", self.plans_manager.dataset_name),
        )

    def _resolved_options(self) -> dict[str, Any]:
        options = {**dataclasses.asdict(self.training_config), **dataclasses.asdict(self.method_config)}
        return {"trainer": type(self).__name__, "options": options, "tasks": self.task_table.to_json()}

    # Data

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split; while one task is validated, its cases only."""
        train, val = super().do_split()
        if self._validated_task is not None:
            val = [case for case in val if self.task_table.task_of(case) == self._validated_task]
        return list(train), list(val)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """nnU-Net's choice, but for the axes to mirror if an option names them."""
        rotation, dummy_2d, size, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        wanted = self.training_config.mirror_axes
        if wanted is not None:
            if not set(wanted) <= set(axes):
                raise ConfigError(
                    f"mirror_axes={','.join(map(str, wanted))}: {self.configuration_name} has the axes "
                    f"{', '.join(map(str, axes))}. Name some of these, or () for none."
                )
            axes = self.inference_allowed_mirroring_axes = tuple(sorted(set(wanted))) or None
        return rotation, dummy_2d, size, axes

    def get_dataloaders(self) -> tuple[TwoStream, Augmenter]:
        """Labelled and unlabelled training batches, and nnU-Net's validation batches."""
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        training, validation = self.get_tr_and_val_datasets()
        check_tasks(self.task_table, training.identifiers)
        self._labeled_cases = training
        unlabeled = None
        if self.method.uses_unlabeled:
            unlabeled = self._unlabeled_files(training.identifiers, validation.identifiers)
        return make_loaders(self, training, validation, unlabeled, self._unlabeled_batch_size())

    def _unlabeled_files(self, train: list[str], val: list[str]) -> dict[str, Path]:
        files = unlabeled_files(
            self.folders, self.fold, train, val, self.num_input_channels, self.dataset_json["file_ending"]
        )
        check_known_tasks(type(self), self.method_config, self.task_table, files)
        self.print_to_log_file(f"{len(train)} labelled and {len(files)} unlabelled training cases")
        return files

    def _unlabeled_batch_size(self) -> int:
        """Per process; by default as many unlabelled patches as labelled ones."""
        wanted = self.training_config.unlabeled_batch_size
        if wanted is None:
            return self.batch_size
        return max(1, wanted // (dist.get_world_size() if self.is_ddp else 1))

    # Training

    @property
    def progress(self) -> float:
        """Share of training done, in [0, 1]."""
        done = self.current_epoch * self.num_iterations_per_epoch + self._iteration
        return done / (self.num_epochs * self.num_iterations_per_epoch)

    def on_train_epoch_start(self) -> None:
        """Start counting the epoch's iterations."""
        super().on_train_epoch_start()
        self._iteration = 0

    def train_step(self, batch: dict) -> dict:
        """One update: the method's terms, their weighted sum, nnU-Net's gradient step."""
        self.optimizer.zero_grad(set_to_none=True)
        self._last_batch = self.to_device(batch)
        with self.autocast():
            terms = self.method.losses(self.network, self._last_batch, self.progress, self.generator)
            loss = total_loss(terms)
        self._update(loss)
        self._iteration += 1
        self.method.after_update(self.network, self.progress)
        if self.monitor is not None:
            self.monitor.see(self.network, self._last_batch, self._iteration)
        return {"loss": loss.detach().cpu().numpy(), **_loggable(terms)}

    def _update(self, loss: torch.Tensor) -> None:
        """nnU-Net's optimiser step: gradient scaling under CUDA, gradient norm clipped at 12."""
        if self.grad_scaler is None:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
            self.optimizer.step()
            return
        self.grad_scaler.scale(loss).backward()
        self.grad_scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def autocast(self) -> AbstractContextManager:
        """Mixed precision on CUDA only, as nnU-Net does."""
        return autocast("cuda", enabled=True) if self.device.type == "cuda" else dummy_context()

    def to_device(self, batch: dict) -> Batch:
        """A loader's batch as methods take it."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(self.device, non_blocking=True)

        targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        unlabeled = batch.get("unlabeled")
        return Batch(
            labeled=move(batch["data"]),
            targets=[move(t) for t in targets],
            tasks=move(torch.tensor([self.task_table.task_of(str(c)) for c in batch["keys"]])),
            unlabeled=None if unlabeled is None else move(unlabeled),
            unlabeled_tasks=None
            if unlabeled is None
            else move(torch.tensor([self.task_table.known_task_of(str(c)) for c in batch["unlabeled_keys"]])),
        )

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log every loss term and its weight."""
        super().on_train_epoch_end([{"loss": o["loss"]} for o in train_outputs])
        means: dict[str, Any]
        means = {k: float(np.mean([o[k] for o in train_outputs])) for k in train_outputs[0] if k != "loss"}
        if self.is_ddp:
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, means)
            means = {k: float(np.mean([g[k] for g in gathered])) for k in means}
        history = self.logger.local_logger.my_fantastic_logging
        if self.monitor is not None:
            means |= self.monitor.end_epoch(self.network, history)
        for key, value in (means | ended(history, means)).items():
            curve = history.setdefault(key, [])  # nnU-Net's logger wants one value per epoch
            curve += [float("nan")] * (self.current_epoch - len(curve))
            self.logger.log(key, value, self.current_epoch)
        values = {k.removeprefix(TERM): round(v, 4) for k, v in means.items() if k.startswith(TERM)}
        weights = {k.removeprefix(WEIGHT): round(v, 4) for k, v in means.items() if k.startswith(WEIGHT)}
        self.print_to_log_file("loss terms", values, "weights", weights)

    def on_epoch_end(self) -> None:
        """Draw the terms' curves beside nnU-Net's progress.png, and the method's pictures when due."""
        done = self.current_epoch + 1
        super().on_epoch_end()
        if self.local_rank != 0:
            return
        history = self.logger.local_logger.my_fantastic_logging
        plot_terms(history, Path(self.output_folder) / "progress_ssl.png")
        every = self.training_config.preview_every
        if every and (done % every == 0 or done in (1, self.num_epochs)):
            self._draw_previews(Path(self.output_folder) / "previews" / f"epoch_{done:04d}.png")
        self._last_batch = None

    def _draw_previews(self, file: Path) -> None:
        if self._last_batch is None:
            return
        network = bare_network(self.network)
        network.eval()
        with torch.no_grad(), self.autocast():
            strips = self.method.preview(network, self._last_batch, torch.Generator().manual_seed(0))
        network.train()
        save_previews(strips, file)

    def on_train_end(self) -> None:
        """Save the final checkpoint, stop the workers."""
        super().on_train_end()
        self.dataloader_train.close()

    # Validation: each case on its own task's labels

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's online validation; labels that a case is not annotated for do not count."""
        if len(self.task_table) == 1:
            return super().validation_step(batch)
        tasks = torch.tensor([self.task_table.task_of(str(c)) for c in batch["keys"]])
        with self._restricted(task_channels(self.space, tasks)):
            return super().validation_step(batch)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's final validation, task by task where there are several."""
        if len(self.task_table) == 1:
            super().perform_actual_validation(save_probabilities)
            return
        fold_folder = self.output_folder
        val_tasks = sorted({self.task_table.task_of(case) for case in self.do_split()[1]})
        for task in val_tasks:
            with self._validating(task, os.path.join(fold_folder, "validation_by_task")):
                super().perform_actual_validation(save_probabilities)
        if self.local_rank == 0:
            names = [self.task_table.tasks[t].name for t in val_tasks]
            by_value = merge_task_validations(Path(fold_folder), names)
            dice = {
                p.label: by_value[str(p.value)] for p in self.task_table.prompts if str(p.value) in by_value
            }
            shutil.rmtree(os.path.join(fold_folder, "validation_by_task"))
            self.print_to_log_file("Mean Validation Dice by label, each on its own task's cases:", dice)
            self.print_to_log_file("Mean Validation Dice: ", float(np.nanmean(list(dice.values()))))
        if self.is_ddp:
            dist.barrier()

    @contextmanager
    def _validating(self, task: int, folder: str) -> Iterator[None]:
        """Let nnU-Net's validation see one task: its cases, its labels, a folder of its own."""
        label_manager, output_folder = self.label_manager, self.output_folder
        name = self.task_table.tasks[task].name
        self.print_to_log_file(f"Validation of task {name}")
        self._validated_task, self.output_folder = task, os.path.join(folder, name)
        self.label_manager = OwnLabels(label_manager, self.task_table.prompts_of(task))
        try:
            with self._restricted(task_channels(self.space, torch.tensor([task]))[0]):
                yield
        finally:
            self._validated_task, self.output_folder, self.label_manager = None, output_folder, label_manager

    @contextmanager
    def _restricted(self, keep: torch.Tensor) -> Iterator[None]:
        handle = restrict_output(self.network, keep)
        try:
            yield
        finally:
            handle.remove()

    # Checkpoints

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with options and random numbers."""
        kept = {"options": self._resolved_options(), "network": self._network_parts}
        save_with_state(super().save_checkpoint, filename, kept, self.generator)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Load as nnU-Net does and keep what we added until training starts."""
        state = read_state(str(filename_or_checkpoint))
        if state is not None:
            check_network(state, self._network_parts)
        super().load_checkpoint(filename_or_checkpoint)
        self._resumed_state = state


def _loggable(terms: Terms) -> dict[str, float]:
    values = {TERM + name: float(value.detach()) for name, (value, _) in terms.items()}
    return values | {WEIGHT + name: float(weight) for name, (_, weight) in terms.items()}
