"""Make a variant of a plans file: our options, and the few plan values that a small experiment changes.

A new plans name gives a results folder of its own. The preprocessed data are shared, since every
configuration keeps its ``data_identifier``; so the stock trainer can use the variant, too.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_ssl.config import check_known, check_range, option_names, parse_value, resolve
from nnunet_ssl.errors import ConfigError, DataError
from nnunet_ssl.json_files import read_json, write_json_atomically
from nnunet_ssl.tasks import BLOCK

# Values of a configuration that can be set, with their types.
PLAN_VALUES: dict[str, Any] = {
    "features_per_stage": tuple[int, ...],
    "patch_size": tuple[int, ...],
    "batch_size": int,
    "batch_dice": bool,
}
# What has one entry per stage and is cut with features_per_stage; the decoder has one stage less.
_PER_STAGE = ("strides", "kernel_sizes", "n_conv_per_stage", "n_blocks_per_stage")

NO_CASCADE = (
    "the cascade's second stage takes a segmentation as input, which unlabelled scans lack. Use 3d_fullres "
    "or 3d_lowres."
)

Change = tuple[str, str, str]


def parse_settings(items: Iterable[str]) -> dict[str, str]:
    """Read ``KEY=VALUE`` items.

    Raises:
        ConfigError: an item has no ``=`` or no key, or a key is given twice.
    """
    settings: dict[str, str] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set: expected KEY=VALUE, got '{item}'.")
        if key in settings:
            raise ConfigError(f"--set: {key} is given twice ({settings[key]} and {value}). Give it once.")
        settings[key] = value
    return settings


def configure_plans(
    plans: Mapping[str, Any],
    name: str,
    settings: Mapping[str, str],
    unset: Sequence[str] = (),
    configuration: str | None = None,
    known: Sequence[type] = (),
) -> tuple[dict[str, Any], list[Change]]:
    """Make new plans from ``plans``, which stay as they are.

    Args:
        plans: content of a plans file.
        name: name of the new plans.
        settings: text of each option or plan value to set.
        unset: options to remove, so that their defaults hold again.
        configuration: which one gets the plan values; needed if there are several.
        known: the config classes whose options may be set.

    Returns:
        The new plans and what changed: key, old, new value as typed.

    Raises:
        ConfigError: a key is unknown, or a value is malformed, out of range or does not fit the network.
    """
    if not settings and not unset:
        raise ConfigError(
            "Nothing to change: expected --set KEY=VALUE or --unset KEY. --list shows the options."
        )
    hints = option_names(known)
    stored = plans.get(BLOCK, {}).get("options", {})
    unknown = [key for key in settings if key not in hints and key not in PLAN_VALUES]
    if unknown:
        raise ConfigError(
            f"Unknown key(s) {', '.join(unknown)}. Plan values: {', '.join(PLAN_VALUES)}. "
            f"Options: {', '.join(sorted(hints))}."
        )
    _check_unset(unset, settings, stored)
    new = copy.deepcopy(dict(plans))
    new["plans_name"] = name
    options = {key: value for key, value in stored.items() if key not in unset}
    options |= {k: parse_value(k, text, hints[k]) for k, text in settings.items() if k not in PLAN_VALUES}
    check_options(options, known)
    new.setdefault(BLOCK, {})["options"] = options
    values = {k: parse_value(k, settings[k], hint) for k, hint in PLAN_VALUES.items() if k in settings}
    changes = _option_changes([*settings, *unset], stored, options, known)
    if values:
        changes += _set_plan_values(new, values, configuration)
    return new, changes


def resolve_configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits, in today's format.

    Raises:
        ConfigError: there is no such configuration.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    known = ", ".join(plans["configurations"])
    if name not in plans["configurations"]:
        raise ConfigError(f"The plans have no configuration '{name}'. They have: {known}.")
    manager = PlansManager(copy.deepcopy(dict(plans))).get_configuration(name)
    return copy.deepcopy(dict(manager.configuration))


def is_cascade(plans: Mapping[str, Any], configuration: str) -> bool:
    """Whether a configuration is the cascade's second stage, which no trainer of ours can train."""
    return resolve_configuration(plans, configuration).get("previous_stage") is not None


def check_options(options: Mapping[str, Any], known: Sequence[type]) -> None:
    """Raise ``ConfigError`` if an option is unknown, of the wrong type or out of range for any class."""
    check_known(options, known)
    for config in known:
        resolve(config, options, known)


def read_plans(folder: Path, name: str) -> dict[str, Any]:
    """Plans ``name`` of a preprocessed dataset.

    Raises:
        DataError: the file is missing or holds no plans; the message lists the plans that are there.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.json") if _is_plans(p))) or "none"
        raise DataError(
            f"Expected plans in {path}, which does not exist. Plans there: {there}. "
            "Name one of them with -p, or run nnUNetv2_plan_experiment."
        )
    if not _is_plans(path):
        raise DataError(f"{path} holds no plans: it has no 'configurations'. Name a plans file with -p.")
    return dict(read_json(path))


def write_plans(
    folder: Path, plans: Mapping[str, Any], source: str, overwrite: bool = False
) -> tuple[Path, bool]:
    """Write plans under their name.

    Args:
        folder: the preprocessed dataset.
        plans: what to write.
        source: name of the plans they were made from.
        overwrite: replace other plans of that name, if this command has made them.

    Returns:
        The file and whether it changed.

    Raises:
        ConfigError: the name is malformed, is that of the source, or is taken.
    """
    name = plans["plans_name"]
    if name == source:
        raise ConfigError(f"-o: the new plans need a name of their own, not that of their source {source}.")
    # nnU-Net names results TRAINER__PLANS__CONFIGURATION and splits at the double underscore.
    if not re.fullmatch(r"[\w.-]+", name, flags=re.ASCII) or "__" in name:
        raise ConfigError(
            f"-o: expected a name of letters, digits, '_', '-' and '.', without '__', got '{name}'."
        )
    path = folder / f"{name}.json"
    if path.exists():
        old = read_json(path)
        if old == json.loads(json.dumps(plans)):  # tuples become lists
            return path, False
        if BLOCK not in old or "configurations" not in old:
            raise ConfigError(
                f"{path} was not made by this command and is not replaced. Choose another name (-o)."
            )
        if not overwrite:
            raise ConfigError(
                f"{path} exists with other content. Choose another name (-o), or add --overwrite."
            )
    write_json_atomically(path, plans)
    return path, True


def option_rows(known: Iterable[type]) -> list[tuple[str, str, str, str]]:
    """Rows of option, type, default and the first sentence of its description."""
    known = list(known)
    defaults, texts = _defaults(known), _descriptions(known)
    return [(k, _type_name(h), defaults[k], texts.get(k, "")) for k, h in option_names(known).items()]


def show(value: Any) -> str:
    """A value as it would be typed after ``KEY=``."""
    if isinstance(value, (list, tuple)):
        return ",".join(show(v) for v in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_unset(unset: Sequence[str], settings: Mapping[str, str], stored: Mapping[str, Any]) -> None:
    for key in unset:
        if key in settings:
            raise ConfigError(f"{key} is both set and unset. Do one.")
        if key not in stored:
            there = ", ".join(stored) or "none"
            raise ConfigError(f"--unset: {key} is not among the options set in these plans ({there}).")


def _option_changes(
    keys: Iterable[str], old: Mapping[str, Any], new: Mapping[str, Any], known: Sequence[type]
) -> list[Change]:
    defaults = _defaults(known)
    keys = [key for key in keys if key not in PLAN_VALUES]

    def shown(options: Mapping[str, Any], key: str) -> str:
        return show(options[key]) if key in options else defaults.get(key, "unknown")

    return [(key, shown(old, key), shown(new, key)) for key in keys]


def _set_plan_values(
    plans: dict[str, Any], values: Mapping[str, Any], configuration: str | None
) -> list[Change]:
    """Write plan values into one configuration; one that inherits gets overrides, its parent stays."""
    name = _choose_configuration(plans, configuration)
    before = resolve_configuration(plans, name)
    after = copy.deepcopy(before)
    if "features_per_stage" in values:
        _cut_stages(after["architecture"], values["features_per_stage"], name)
    if "batch_size" in values:
        check_range("batch_size", values["batch_size"], low=1)
    for key in ("patch_size", "batch_size", "batch_dice"):
        if key in values:
            after[key] = list(values[key]) if key == "patch_size" else values[key]
    if "patch_size" in values or "features_per_stage" in values:
        _check_patch(after["patch_size"], len(before["patch_size"]), after["architecture"]["arch_kwargs"])
    for key in values:
        stored = "architecture" if key == "features_per_stage" else key
        plans["configurations"][name][stored] = after[stored]
    return [
        (f"{name}: {key}", show(_plan_value(before, key)), show(_plan_value(after, key))) for key in values
    ]


def _choose_configuration(plans: Mapping[str, Any], configuration: str | None) -> str:
    names = list(plans["configurations"])
    if configuration is None and len(names) == 1:
        return str(names[0])
    if configuration in names:
        return str(configuration)
    found = "none" if configuration is None else f"'{configuration}'"
    raise ConfigError(
        f"{', '.join(PLAN_VALUES)} belong to one configuration: expected -c with one of {', '.join(names)}, "
        f"got {found}."
    )


def _plan_value(configuration: Mapping[str, Any], key: str) -> Any:
    return (
        configuration["architecture"]["arch_kwargs"][key]
        if key == "features_per_stage"
        else configuration[key]
    )


def _cut_stages(architecture: dict[str, Any], features: Sequence[int], name: str) -> None:
    kwargs = architecture["arch_kwargs"]
    if "features_per_stage" not in kwargs or "n_stages" not in kwargs:
        network = architecture["network_class_name"].rsplit(".", 1)[-1]
        raise ConfigError(
            f"{network}, the network of configuration {name}, has no features_per_stage to set."
        )
    stages, planned = len(features), kwargs["n_stages"]
    # With two stages, deep supervision has one scale, to which nnU-Net gives no weight: its loss is NaN
    if not 3 <= stages <= planned or min(features) < 1:
        raise ConfigError(
            f"features_per_stage: expected 3 to {planned} positive numbers, as configuration {name} is "
            f"planned with {planned} stages ({show(kwargs['features_per_stage'])}), got {show(features)}."
        )
    kwargs["features_per_stage"], kwargs["n_stages"] = list(features), stages
    for key, length in (*((k, stages) for k in _PER_STAGE), ("n_conv_per_stage_decoder", stages - 1)):
        if isinstance(kwargs.get(key), (list, tuple)):
            kwargs[key] = list(kwargs[key])[:length]


def _check_patch(patch: Sequence[int], dimension: int, arch_kwargs: Mapping[str, Any]) -> None:
    if len(patch) != dimension:
        raise ConfigError(f"patch_size: expected {dimension} numbers, got {len(patch)} ({show(patch)}).")
    strides = [[s] * dimension if isinstance(s, int) else s for s in arch_kwargs.get("strides", [])]
    steps = [math.prod(stride[axis] for stride in strides) for axis in range(dimension)]
    if any(size < 1 or size % step for size, step in zip(patch, steps, strict=True)):
        below = [max(size // step, 1) * step for size, step in zip(patch, steps, strict=True)]
        above = [max(-(-size // step), 1) * step for size, step in zip(patch, steps, strict=True)]
        raise ConfigError(
            f"patch_size: expected multiples of {show(steps)} (the product of the strides of each axis), got "
            f"{show(patch)}. Nearest below: {show(below)}; above: {show(above)}."
        )
    if strides and list(patch) == steps:
        raise ConfigError(
            f"patch_size {show(patch)} leaves a single voxel in the lowest stage, which cannot be normalised "
            "in training. Take a larger patch or fewer stages (features_per_stage)."
        )


def _is_plans(path: Path) -> bool:
    try:
        content = read_json(path)
    except DataError:
        return False
    return isinstance(content, dict) and "configurations" in content


def _defaults(known: Iterable[type]) -> dict[str, str]:
    """Each option's default as typed; where methods differ, each with their names."""
    found: dict[str, dict[str, list[str]]] = {}
    for config in known:
        for field in dataclasses.fields(config):
            methods = found.setdefault(field.name, {}).setdefault(show(field.default), [])
            methods.append(config.__name__.removesuffix("Config"))
    return {
        name: ", ".join(
            f"{value} ({' '.join(methods)})" if len(values) > 1 else value
            for value, methods in values.items()
        )
        for name, values in found.items()
    }


def _descriptions(known: Iterable[type]) -> dict[str, str]:
    """First sentence of each entry in the "Attributes:" sections of the classes and their bases."""
    texts: dict[str, str] = {}
    for config in known:
        for cls in config.__mro__:
            section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
            for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE):
                sentence = re.split(r"\.(?=\s+[A-Z]|$)", " ".join(text.split()))[0]
                texts.setdefault(name, sentence.replace("``", ""))
    return texts


def _type_name(hint: Any) -> str:
    choices = re.fullmatch(r"typing\.Literal\[(.*)\]", str(hint))
    if choices:
        return choices[1].replace("'", "").replace(", ", "|")
    return hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
