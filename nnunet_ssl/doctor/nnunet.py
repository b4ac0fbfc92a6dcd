"""All that the doctor asks of nnU-Net: the reader, normalisation, and what a plan will need."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.data.dataset_json import channel_names
from nnunet_ssl.doctor.inventory import CaseFiles
from nnunet_ssl.doctor.reading import Reader
from nnunet_ssl.errors import ConfigError, DataError
from nnunet_ssl.training.networks import planned_network

# nnU-Net's planner takes its static estimate for proportional to GB: this is 8 GB, at batch size 2 (12 in 2D)
_GB, _PER_GB_3D, _PER_GB_2D = 8, 560_000_000 * 2, 85_000_000 * 12


@dataclass(frozen=True)
class PlanFacts:
    """What a configuration will need of the machine.

    Attributes:
        plans: name of the plans.
        configuration: name of the configuration.
        spacing: target spacing; two values keep the slices as they are.
        transpose: order of the axes.
        done: cases that are preprocessed already, labelled and unlabelled.
        gpu_gb: graphics memory that supervised training needs by nnU-Net's estimate; ``None`` if it has none.
        folder: where preprocessed cases go.
    """

    plans: str
    configuration: str
    spacing: tuple[float, ...]
    transpose: tuple[int, ...]
    done: frozenset[tuple[str, str]]
    gpu_gb: float | None
    folder: Path


def find_reader(dataset_json: Mapping[str, Any], cases: list[CaseFiles]) -> type[Reader]:
    """NnU-Net's reader for a dataset: of those for the file ending, the first that can read an image.

    Raises:
        DataError: nnU-Net reads no such files.
    """
    image = next((file for case in cases for file in case.images[:1]), None)
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        for example in (str(image), None) if image else (None,):  # a corrupt example must not decide
            try:
                return determine_reader_writer_from_dataset_json(
                    dict(dataset_json), example_file=example, verbose=False
                )
            except RuntimeError:
                continue
    raise DataError(
        f"nnU-Net has no reader for '{dataset_json['file_ending']}' files. Convert the scans to .nii.gz or "
        ".png and correct 'file_ending' in dataset.json."
    )


def normalization_of(
    dataset_json: Mapping[str, Any], plans: Mapping[str, Any] | None, name: str | None
) -> list[str]:
    """Class name of the normalisation of each channel: by the plans, or as nnU-Net would plan it."""
    if plans is not None and name is not None:
        configuration = PlansManager(dict(plans)).get_configuration(name)
        return [str(scheme) for scheme in configuration.normalization_schemes]
    channels = channel_names(dataset_json)
    return [str(get_normalization_scheme(channel).__name__) for channel in channels]


def choose_configuration(plans: Mapping[str, Any], name: str, wanted: str | None) -> str:
    """``wanted``, or 3d_fullres if there is one, or the first.

    Raises:
        ConfigError: there is no such configuration.
    """
    known = list(plans["configurations"])
    if wanted is not None and wanted not in known:
        raise ConfigError(f"{name} has no configuration '{wanted}'. It has: {', '.join(known)}.")
    return wanted or ("3d_fullres" if "3d_fullres" in known else known[0])


def plan_facts(
    preprocessed: Path, plans: Mapping[str, Any], name: str, dataset_json: Mapping[str, Any], with_gpu: bool
) -> PlanFacts:
    """What a configuration of some plans needs.

    Args:
        preprocessed: ``nnUNet_preprocessed/DATASET``.
        plans: content of the plans file.
        name: the configuration.
        dataset_json: for the number of channels and labels.
        with_gpu: whether to estimate graphics memory, which builds the network.
    """
    manager = PlansManager(dict(plans))
    configuration = manager.get_configuration(name)
    folder = preprocessed / configuration.data_identifier
    return PlanFacts(
        plans=str(plans["plans_name"]),
        configuration=name,
        spacing=tuple(configuration.spacing),
        transpose=tuple(manager.transpose_forward),
        done=_done("imagesTr", folder) | _done("imagesUn", folder.with_name(f"{folder.name}_unlabeled")),
        gpu_gb=_gpu_gb(manager, configuration, dataset_json) if with_gpu else None,
        folder=folder,
    )


def _done(role: str, folder: Path) -> frozenset[tuple[str, str]]:
    files = folder.glob("*.b2nd") if folder.is_dir() else ()
    names = (p.stem for p in files if not p.name.startswith("."))
    return frozenset((role, name) for name in names if not name.endswith("_seg"))


def _gpu_gb(manager: Any, configuration: Any, dataset_json: Mapping[str, Any]) -> float | None:
    # Not by ExperimentPlanner.static_estimate_VRAM_usage: it fails where nnUNet_n_proc_DA is 0
    heads = manager.get_label_manager(dict(dataset_json)).num_segmentation_heads
    with torch.device("meta"):  # no memory, no time
        network = planned_network(
            configuration, len(channel_names(dataset_json)), heads, deep_supervision=False
        )
    measure: Any = getattr(network, "compute_conv_feature_map_size", None)
    if measure is None:  # a network of another package
        return None
    size = measure(tuple(configuration.patch_size))
    per_gb = _PER_GB_2D if len(configuration.patch_size) == 2 else _PER_GB_3D
    return float(size) * float(configuration.batch_size) / per_gb * _GB
