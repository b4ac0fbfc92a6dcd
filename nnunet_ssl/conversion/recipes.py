"""Recipes for public datasets: the modules of ``dataset_conversion/``.

A recipe module has a docstring, ``RECIPE`` (and ``VARIANTS``, if it can make several things of a download),
``find_cases(download)`` and, where papers have one, ``splits(download, cases)``. Installed, the folder is the
package ``nnunet_ssl._dataset_conversion``; in a checkout it is ``dataset_conversion`` beside ``nnunet_ssl``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.dataset_plan import DatasetPlan
from nnunet_ssl.conversion.paper_splits import Split
from nnunet_ssl.errors import ConfigError, DataError, few

PACKAGE = "nnunet_ssl._dataset_conversion"
_DEPTH = 3  # an unpacked archive often lies in a folder, or two, of its own name


@dataclass(frozen=True)
class Recipe:
    """What a recipe makes, and how its download is known.

    Attributes:
        title: one line for the list.
        dataset: name of the dataset, without number.
        channels: names of the channels.
        labels: nnU-Net's labels, with ``background``.
        layouts: name of a layout -> patterns of files, every one of which must be found in it.
        licence: as stated where the data are published.
        reference: where they are published.
        file_ending: of the files written.
        values: value in the label sources -> value written; the same values, if empty.
        about: more entries for ``dataset.json``.
    """

    title: str
    dataset: str
    channels: Sequence[str]
    labels: Mapping[str, Any]
    layouts: Mapping[str, Sequence[str]]
    licence: str
    reference: str
    file_ending: str = ".nii.gz"
    values: Mapping[int, int] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Download:
    """Where a download was found, in which of the layouts of its recipe, and what is to be made of it."""

    folder: Path
    layout: str
    variant: str


def register() -> ModuleType:
    """Import the package of the recipes, from wherever it is; worker processes need it under its name."""
    if PACKAGE in sys.modules:
        return sys.modules[PACKAGE]
    try:
        return importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise
    folder = Path(__file__).parents[2] / "dataset_conversion"
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not folder.is_dir():
        raise DataError(
            f"Expected the recipes in {folder}, found none. Install the package again: "
            "pip install --force-reinstall --no-deps nnunet-ssl"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
    return module


def recipe_names() -> list[str]:
    """Names of all recipes."""
    package = register()
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load_recipe(name: str) -> ModuleType:
    """The module of a recipe.

    Raises:
        ConfigError: there is no such recipe.
    """
    known = recipe_names()
    wanted = name.lower().replace("-", "_")
    if wanted not in known:
        raise ConfigError(
            f"There is no recipe '{name}'. Known: {', '.join(known)}. For files of your own: convert folder."
        )
    return importlib.import_module(f"{PACKAGE}.{wanted}")


def variants_of(module: ModuleType) -> dict[str, Recipe]:
    """The recipes of a module by the name of their variant; the first is the default."""
    return dict(getattr(module, "VARIANTS", {"default": module.RECIPE}))


def choose_variant(module: ModuleType, variant: str | None) -> tuple[str, Recipe]:
    """The recipe of a variant.

    Raises:
        ConfigError: there is no such variant.
    """
    variants = variants_of(module)
    name = variant or next(iter(variants))
    if name not in variants:
        raise ConfigError(f"--variant: expected one of {', '.join(variants)}, got '{variant}'.")
    return name, variants[name]


def locate(folder: Path, layouts: Mapping[str, Sequence[str]]) -> tuple[Path, str]:
    """The folder, ``folder`` itself or one up to three levels beneath, that has one of the layouts.

    Raises:
        DataError: there is none; the message says which files were looked for.
    """
    if not folder.is_dir():
        raise DataError(f"-i: expected the folder of the download, but {folder} is none.")
    level = [folder]
    for _ in range(_DEPTH + 1):
        for candidate in level:
            for name, patterns in layouts.items():
                if all(next(candidate.glob(pattern), None) is not None for pattern in patterns):
                    return candidate, name
        level = [d for parent in level for d in sorted(parent.iterdir()) if d.is_dir()]
    expected = " or ".join(" and ".join(patterns) for patterns in layouts.values())
    found = few(sorted(p.name for p in folder.iterdir()), 8) or "nothing"
    raise DataError(
        f"{folder} does not look like the official download: expected {expected}, found {found}. Unpack the "
        "archives as they came, and give the folder that holds them."
    )


def plan_recipe(
    name: str, folder: Path, dataset: str, variant: str | None = None, test_as_unlabeled: bool = False
) -> DatasetPlan:
    """Plan the dataset that a recipe makes of a download.

    Args:
        name: of the recipe.
        folder: of the download.
        dataset: full name of the new dataset.
        variant: of the recipe; its first one if ``None``.
        test_as_unlabeled: test scans that have no label become unlabelled training scans.

    Raises:
        ConfigError: the recipe or the variant is unknown.
        DataError: the download has another layout than the official one, or is incomplete.
    """
    module = load_recipe(name)
    chosen, recipe = choose_variant(module, variant)
    where, layout = locate(folder, recipe.layouts)
    download = Download(where.resolve(), layout, chosen)
    cases = _place_bare_tests(list(module.find_cases(download)), test_as_unlabeled)
    values = recipe.values or {v: v for v in label_values(recipe.labels)}
    about = {"reference": recipe.reference, "licence": recipe.licence, "description": recipe.title}
    return DatasetPlan(
        name=dataset,
        origin=f"{module.__name__.rpartition('.')[2]}/{chosen}",
        cases=cases,
        channels=recipe.channels,
        labels=recipe.labels,
        file_ending=recipe.file_ending,
        values=values,
        about={**about, **recipe.about},
        splits=_splits(module, download, cases),
    )


def label_values(labels: Mapping[str, Any]) -> list[int]:
    """Every value that a label map may hold."""
    members = [v if isinstance(v, (list, tuple)) else [v] for v in labels.values()]
    return sorted({int(v) for group in members for v in group})


def _place_bare_tests(cases: list[Case], as_unlabeled: bool) -> list[Case]:
    """Test scans without labels: unlabelled if asked for, else test scans unless there are labelled ones."""
    if as_unlabeled:
        return [
            replace(c, subset="unlabeled") if c.subset == "test" and c.label is None else c for c in cases
        ]
    if any(c.subset == "test" and c.label is not None for c in cases):
        return [c for c in cases if c.subset != "test" or c.label is not None]
    return cases


def _splits(module: ModuleType, download: Download, cases: Sequence[Case]) -> list[Split]:
    if not hasattr(module, "splits"):
        return []
    present = {case.identifier for case in cases if case.subset == "train"}
    made: Iterable[Split] = module.splits(download, cases)
    return [split for split in made if split.is_usable(present)]
