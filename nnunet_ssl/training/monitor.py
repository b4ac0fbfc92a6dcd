"""The pseudo-label monitor: curves beside the loss terms, and a word in the log when pseudo-labels collapse.

It watches some of each epoch's unlabelled batches and, if ``monitor_hidden_labels`` is set, a few fixed
patches of cases whose labels the split hides. It draws nothing from the generators of training and changes no
weight: a training is the same with and without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_ssl.config import TrainingConfig
from nnunet_ssl.curve_names import (
    AGREEMENT,
    BY_LABEL,
    COLLAPSED,
    CONFIDENCE,
    COVERAGE,
    HIDDEN_DICE,
    PREFIX,
    REFERENCE,
)
from nnunet_ssl.data.layout import hidden_cases
from nnunet_ssl.data.two_stream import TaskBalancedLoader
from nnunet_ssl.methods.base import Batch, Method
from nnunet_ssl.pseudo_labels import (
    Expected,
    Observation,
    collapses,
    count_labels,
    expected,
    mean_dice,
    mean_observation,
    observe,
    overlaps,
)
from nnunet_ssl.targets import LabelSpace
from nnunet_ssl.training.loaders import label_arguments
from nnunet_ssl.training.networks import bare_network
from nnunet_ssl.training.random_state import get_random_state, seed_everything, set_random_state

# Enough to know what is usual, and read in seconds
LABELED_CASES, LABELED_SLICES = 16, 16
HIDDEN_CASES = 8

Curves = dict[str, float | list[float]]


class Monitor:
    """Watches the pseudo-labels of one training.

    Args:
        method: the method.
        space: the tasks.
        config: how often to look.
        wanted: foreground of the labelled cases.
        hidden: fixed patches (1, C, *spatial) with their targets, as labelled batches of one; none unless
            asked for.
        autocast: mixed precision as training has it.
        log: writes a line into nnU-Net's log.
    """

    def __init__(
        self,
        method: Method,
        space: LabelSpace,
        config: TrainingConfig,
        wanted: Expected,
        hidden: Sequence[Batch],
        autocast: Callable[[], AbstractContextManager],
        log: Callable[[str], None],
    ) -> None:
        self.method = method
        self.space = space
        self.config = config
        self.wanted = wanted
        self.hidden = hidden
        self.autocast = autocast
        self.log = log
        self._seen: list[Observation] = []

    def see(self, network: nn.Module, batch: Batch, iteration: int) -> None:
        """Look at the unlabelled images of an update, if it is one of those to look at.

        Args:
            network: as the trainer holds it.
            batch: the data of the update.
            iteration: its number in the epoch, from 1.
        """
        wanted = self.config.monitor_batches
        if batch.unlabeled is None or len(self._seen) >= wanted:
            return
        if iteration % max(1, self.config.num_iterations_per_epoch // wanted) == 0:
            assert batch.unlabeled_tasks is not None
            views = self._predict(network, batch.unlabeled, batch.unlabeled_tasks)
            self._seen.append(observe(views, self.space))

    def end_epoch(self, network: nn.Module, history: Mapping[str, Sequence[Any]]) -> Curves:
        """Values of the epoch for nnU-Net's log; writes a warning where pseudo-labels have collapsed.

        Args:
            network: as the trainer holds it.
            history: nnU-Net's log up to the epoch before.
        """
        values: Curves = {}
        if self._seen:
            mean = mean_observation(self._seen)
            values = {PREFIX + COVERAGE: mean.coverage, PREFIX + CONFIDENCE: mean.confidence}
            values[REFERENCE + COVERAGE] = self.wanted.coverage
            if len(mean.by_label) > 1:
                values[PREFIX + BY_LABEL] = list(mean.by_label)
            if not math.isnan(mean.agreement) or PREFIX + AGREEMENT in history:
                values[PREFIX + AGREEMENT] = mean.agreement
            self._seen = []
            self._warn({**history, **{k: [*history.get(k, []), v] for k, v in values.items()}})
        if self.hidden:
            values[PREFIX + HIDDEN_DICE] = self._hidden_dice(network)
        numbers = {k.removeprefix(PREFIX): v for k, v in values.items() if k.startswith(PREFIX)}
        shown = {k: round(v, 4) for k, v in numbers.items() if isinstance(v, float)}
        if shown:
            usual = f"of the labelled cases {self.wanted.coverage:.4f} are foreground"
            self.log(f"pseudo-labels {shown}" + (f"; {usual}" if COVERAGE in shown else ""))
        return values

    def _warn(self, history: Mapping[str, Sequence[Any]]) -> None:
        for text in collapses(history, self.wanted, self.config.num_epochs):
            self.log(f"{COLLAPSED} {text}")

    def _hidden_dice(self, network: nn.Module) -> float:
        counts = torch.zeros(2, self.space.num_prompts, dtype=torch.float64)
        for patch in self.hidden:
            logits = self._predict(network, patch.labeled, patch.tasks)[0]
            counts += overlaps(logits, patch.targets[0], int(patch.tasks), self.space)
        return mean_dice(counts)

    def _predict(self, network: nn.Module, images: Tensor, tasks: Tensor) -> list[Tensor]:
        """What the method makes of images, in evaluation mode and without gradients."""
        network = bare_network(network)
        training = network.training
        network.eval()
        try:
            with torch.no_grad(), self.autocast():
                return self.method.pseudo_labels(network, images, tasks, torch.Generator().manual_seed(0))
        finally:
            network.train(training)


def start_monitor(trainer: Any, labeled: Any) -> Monitor | None:
    """The monitor of a training that is about to begin; ``None`` if there is nothing to watch.

    Args:
        trainer: our adapter.
        labeled: nnU-Net's dataset of the labelled training cases.
    """
    config: TrainingConfig = trainer.training_config
    hidden = _hidden_patches(trainer) if config.monitor_hidden_labels else []
    if not hidden and not (config.monitor_batches and trainer.method.uses_unlabeled):
        return None
    wanted = _labeled_foreground(labeled, trainer.space)
    return Monitor(
        trainer.method, trainer.space, config, wanted, hidden, trainer.autocast, trainer.print_to_log_file
    )


def _labeled_foreground(labeled: Any, space: LabelSpace) -> Expected:
    """Foreground of some slices of some labelled cases of each task; their labels are known to training."""
    counts = []
    for cases in _by_task(labeled.identifiers, space).values():
        for case in _spread(cases, LABELED_CASES):
            segmentation = labeled.load_case(case)[1]
            for index in _spread(range(segmentation.shape[1]), LABELED_SLICES):
                labels = torch.from_numpy(np.asarray(segmentation[0, index]).astype(np.int64))
                counts.append((space.table.task_of(case), count_labels(labels, space)))
    return expected(counts, space)


def _hidden_patches(trainer: Any) -> list[Batch]:
    """Patches that hold foreground, the same whenever they are asked for; training's generators stay put."""
    cases = _spread(hidden_cases(trainer.folders.splits, trainer.fold), HIDDEN_CASES)
    if not cases:
        trainer.print_to_log_file(
            f"monitor_hidden_labels=true, but fold {trainer.fold} hides no labels: nothing to watch."
        )
        return []
    trainer.print_to_log_file(
        f"monitor_hidden_labels=true: hidden labels of {', '.join(cases)} are read, for the curve "
        f"{HIDDEN_DICE} alone. Training does not see them; choose nothing by that curve."
    )
    manager, size = trainer.label_manager, trainer.configuration_manager.patch_size
    transforms = trainer.get_validation_transforms(None, **label_arguments(manager))
    patches = []
    with _random_state_kept():
        seed_everything(0)
        for case in cases:
            loader = TaskBalancedLoader(
                trainer.dataset_class(trainer.preprocessed_dataset_folder, [case]),
                1,
                size,
                size,
                manager,
                oversample_foreground_percent=1.0,
                transforms=transforms,
                tasks=[trainer.task_table.task_of(case)],
            )
            patches.append(trainer.to_device(next(loader)))
    return patches


def _by_task(cases: Sequence[str], space: LabelSpace) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for case in sorted(cases):
        found.setdefault(space.table.task_of(case), []).append(case)
    return found


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many items, evenly over all.

    >>> _spread(range(10), 3)
    [0, 3, 6]
    """
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


@contextmanager
def _random_state_kept() -> Iterator[None]:
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)
