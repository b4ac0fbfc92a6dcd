"""Options: frozen dataclasses with the defaults, resolved from the plans file, checked by their types.

``plans["nnunet_ssl"]["options"]`` is one flat dictionary. The trainer's own options (``TrainingConfig``) and
the options of every method share it, so that a method and its baseline can run with one plans file.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from nnunet_ssl.errors import ConfigError

ConfigT = TypeVar("ConfigT")

# No weight depends on these, so a training may go on with others.
FREE_OPTIONS = ("save_every", "preview_every", "monitor_batches", "monitor_hidden_labels")


MAX_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True)
class TrainingConfig:
    """Budget and data flow, the same for every trainer; the defaults are nnU-Net's.

    Attributes:
        num_epochs: training length.
        num_iterations_per_epoch: updates per epoch.
        num_val_iterations_per_epoch: batches of the online validation.
        initial_lr: learning rate at the start.
        weight_decay: weight decay of the optimiser.
        optimizer: ``sgd`` (momentum 0.99, Nesterov) or ``adam`` or ``adamw``.
        lr_schedule: ``poly`` (exponent 0.9) or ``constant``.
        oversample_foreground_percent: share of labelled patches that surely hold foreground.
        mirror_axes: axes of the patch that augmentation and prediction may mirror; ``None`` for nnU-Net's
            choice, all of them. Where labels tell left from right leave that axis out: mirrored, a left
            organ looks like a right one.
        save_every: epochs between two checkpoints.
        preview_every: epochs between two strips of pictures in the fold's folder, for methods that draw some;
            0 for none.
        monitor_batches: unlabelled batches per epoch of which the monitor measures the pseudo-labels; 0 for
            none.
        monitor_hidden_labels: read the labels that the split hides, for the curve of the pseudo-labels' Dice
            alone.
        unlabeled_batch_size: unlabelled patches per update; ``None`` takes the plans' batch size.
        seed: seeds network, masks and, without augmentation workers, the patches; ``None`` for random ones.
    """

    num_epochs: int = 1000
    num_iterations_per_epoch: int = 250
    num_val_iterations_per_epoch: int = 50
    initial_lr: float = 1e-2
    weight_decay: float = 3e-5
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr_schedule: Literal["poly", "constant"] = "poly"
    oversample_foreground_percent: float = 0.33
    mirror_axes: tuple[int, ...] | None = None
    save_every: int = 50
    preview_every: int = 50
    monitor_batches: int = 8
    monitor_hidden_labels: bool = False
    unlabeled_batch_size: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "save_every"):
            check_range(name, getattr(self, name), low=1)
        check_range("preview_every", self.preview_every, low=0)
        check_range("monitor_batches", self.monitor_batches, low=0)
        check_range("initial_lr", self.initial_lr, low=0, open_low=True)
        check_range("weight_decay", self.weight_decay, low=0)
        check_range("oversample_foreground_percent", self.oversample_foreground_percent, low=0, high=1)
        for axis in self.mirror_axes or ():
            check_range("mirror_axes", axis, low=0, high=2)
        if self.unlabeled_batch_size is not None:
            check_range("unlabeled_batch_size", self.unlabeled_batch_size, low=1)
        if self.seed is not None:
            check_range("seed", self.seed, low=0, high=MAX_SEED)


def check_range(
    name: str, value: float, low: float | None = None, high: float | None = None, open_low: bool = False
) -> None:
    """Raise ``ConfigError`` unless finite and ``low <= value <= high`` (``low <`` with ``open_low``)."""
    too_low = low is not None and (value <= low if open_low else value < low)
    too_high = high is not None and value > high
    if too_low or too_high or not math.isfinite(value):  # JSON files can hold NaN, which no comparison finds
        left = "" if low is None else f"{low} {'<' if open_low else '<='} "
        right = "" if high is None else f" <= {high}"
        raise ConfigError(f"Option {name}: expected {left}{name}{right}, got {value}.")


def option_names(configs: Iterable[type]) -> dict[str, Any]:
    """Every option of the given config classes with its type, first come first kept."""
    names: dict[str, Any] = {}
    for config in configs:
        hints = typing.get_type_hints(config)
        for f in dataclasses.fields(config):
            names.setdefault(f.name, hints[f.name])
    return names


def resolve(config: type[ConfigT], options: Mapping[str, Any], known: Iterable[type]) -> ConfigT:
    """Build ``config`` from the options that concern it.

    Args:
        config: the dataclass to build.
        options: flat options, values as in JSON.
        known: config classes whose options may stand beside (they are left alone here).

    Raises:
        ConfigError: an option is unknown to all classes, or a value has the wrong type or range.
    """
    check_known(options, [config, *known])
    hints = typing.get_type_hints(config)
    mine = {f.name for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    return config(**{k: _convert(k, v, hints[k]) for k, v in options.items() if k in mine})


def check_known(options: Iterable[str], configs: Iterable[type]) -> None:
    """Raise ``ConfigError`` that lists the known options if one is unknown."""
    names = option_names(configs)
    unknown = sorted(set(options) - set(names))
    if unknown:
        raise ConfigError(
            f"Unknown option(s) {', '.join(unknown)}. Known options: {', '.join(sorted(names))}."
        )


def parse_value(name: str, text: str, hint: Any) -> Any:
    """Read the value of ``KEY=VALUE`` as the option's type: as JSON, as Python writes it, or the text itself.

    Raises:
        ConfigError: no reading has the type.

    >>> parse_value("num_epochs", "250", int)
    250
    >>> parse_value("patch_size", "24,40,48", tuple[int, ...])
    (24, 40, 48)
    """
    errors = []
    for value in _readings(text):
        try:
            return _convert(name, value, hint)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _readings(text: str) -> list[Any]:
    """What ``text`` may mean, likeliest first. The text is last: a file called 2024 is a text, too."""
    readings: list[Any] = []
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            readings.append(read(text))
    return [*readings, text]


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Check ``value`` against a type hint: bool, int, float, str, Literal, tuple, or a union of those."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(name, value, hint)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in typing.get_args(hint)):
            return value
        raise ConfigError(
            f"Option {name}: expected one of {', '.join(map(str, typing.get_args(hint)))}, got {value!r}."
        )
    if origin is tuple and isinstance(value, (list, tuple)):
        return _convert_tuple(name, value, hint)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is type(None) and value is None:
        return None
    if isinstance(hint, type) and type(value) is hint:
        return value
    expected = hint.__name__ if isinstance(hint, type) and origin is None else hint
    raise ConfigError(f"Option {name}: expected {expected}, got {value!r}.")


def _convert_tuple(name: str, value: Sequence[Any], hint: Any) -> tuple[Any, ...]:
    items = typing.get_args(hint)
    if items[-1] is Ellipsis:
        items = items[:1] * len(value)
    if len(items) != len(value):
        raise ConfigError(f"Option {name}: expected {len(items)} values, got {len(value)}: {list(value)!r}.")
    return tuple(_convert(name, v, item) for v, item in zip(value, items, strict=True))


def _convert_union(name: str, value: Any, hint: Any) -> Any:
    for choice in typing.get_args(hint):
        try:
            return _convert(name, value, choice)
        except ConfigError:
            continue
    raise ConfigError(f"Option {name}: expected {hint}, got {value!r}.")
