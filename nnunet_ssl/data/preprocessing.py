"""Preprocessing of ``imagesUn`` with the plans of the labelled data.

Output folder: ``nnUNet_preprocessed/DATASET/DATA_IDENTIFIER_unlabeled``, one blosc2 array (C, z, y, x) in
float32 per scan, and ``manifest.json``, which says from what plans and files each was made. A file is written
under another name and then renamed, and listed only after that, so what is half written never counts.
Trainings that begin together take turns: the first preprocesses, the others find it done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
import nibabel
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnunet_ssl.data.dataset_json import channel_names
from nnunet_ssl.data.layout import list_images
from nnunet_ssl.errors import DataError, listing, reason
from nnunet_ssl.json_files import read_json, write_json_atomically
from nnunet_ssl.locks import NoLocksError, locked
from nnunet_ssl.parallel import run_jobs

MANIFEST = "manifest.json"
_ABANDONED = 3600  # seconds after which no process is still writing one scan
_BETWEEN_MANIFESTS = 10  # seconds; written with each of 20 000 scans it would take twenty minutes
# What preprocessing depends on; patch size and network do not matter.
PLAN_KEYS = ("image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel")
CONFIGURATION_KEYS = (
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
)


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to preprocess scans.

    Attributes:
        plans: nnU-Net plans.
        configuration: name of the configuration.
        dataset_json: the dataset's dataset.json.
        folder: output folder.
    """

    plans: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    folder: Path

    @property
    def fingerprint(self) -> str:
        """Changes when preprocessed files would."""
        configuration = PlansManager(self.plans).get_configuration(self.configuration).configuration
        relevant = {k: self.plans.get(k) for k in PLAN_KEYS} | {
            k: configuration.get(k) for k in CONFIGURATION_KEYS
        }
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def unlabeled_folder(preprocessed_dataset: Path, data_identifier: str) -> Path:
    """Folder of preprocessed unlabelled scans beside nnU-Net's own."""
    return preprocessed_dataset / f"{data_identifier}_unlabeled"


def array_file(folder: Path, case: str) -> Path:
    """Preprocessed image of a case, in nnU-Net's folders and in ours."""
    return folder / f"{case}.b2nd"


def preprocess_unlabeled(recipe: Recipe, images: Path | None, num_processes: int) -> list[str]:
    """Bring the output folder up to date with ``imagesUn``; does only what is missing or stale.

    Args:
        recipe: plans, configuration and output folder.
        images: the folder imagesUn. Where there is none, what was prepared elsewhere is taken as it is.
        num_processes: workers; 1 works in this process.

    Returns:
        Case ids that are ready, sorted.

    Raises:
        DataError: scans cannot be used; every one is named with its reason. The others are done. Or what was
            prepared elsewhere was made from other plans.
    """
    if images is None:
        return _prepared_elsewhere(recipe)
    scans = list_images(images, recipe.dataset_json["file_ending"], strict=True)
    if not scans and not recipe.folder.is_dir():
        return []
    with _alone(recipe.folder):
        ready, problems = _bring_up_to_date(recipe, scans, num_processes)
    if problems:
        heading = f"{len(problems)} of {len(scans)} unlabelled scan(s) in {images} cannot be used:"
        raise DataError(
            f"{listing(heading, sorted(problems))}\nRepair or remove them and run the command again; the "
            "others are kept."
        )
    return ready


def _prepared_elsewhere(recipe: Recipe) -> list[str]:
    cases = prepared_cases(recipe.folder)
    if cases and not _read_manifest(recipe.folder, recipe.fingerprint):
        raise DataError(
            f"The {len(cases)} unlabelled scan(s) in {recipe.folder} were preprocessed with other plans, and "
            "there is no imagesUn here to do it anew. Copy what was preprocessed with these plans, put the "
            "scans into imagesUn, or delete that folder to train without them."
        )
    return cases


def _bring_up_to_date(
    recipe: Recipe, scans: Mapping[str, list[Path]], num_processes: int
) -> tuple[list[str], list[str]]:
    """Cases that are ready, sorted, and what is wrong with the others; no other process is at the folder."""
    fingerprint, sources = recipe.fingerprint, {case: _stamp(files) for case, files in scans.items()}
    done = _read_manifest(recipe.folder, fingerprint)
    done = {c: s for c, s in done.items() if sources.get(c) == s and array_file(recipe.folder, c).is_file()}
    todo = sorted(set(scans) - set(done))
    _remove_leftovers(recipe.folder, set(done))
    problems: list[str] = []
    results = run_jobs(partial(_prepare_safely, recipe), [(c, scans[c]) for c in todo], num_processes)
    written = time.monotonic()
    try:
        for index, problem in tqdm(results, total=len(todo), desc="Unlabelled scans", disable=not todo):
            if problem is not None:
                problems.append(problem)
                continue
            done[todo[index]] = sources[todo[index]]
            if time.monotonic() - written > _BETWEEN_MANIFESTS:
                _write_manifest(recipe.folder, fingerprint, done)
                written = time.monotonic()
    finally:  # also of what an interrupted command has done
        _write_manifest(recipe.folder, fingerprint, done)
    return sorted(done), problems


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for others that preprocess into the folder; where files cannot be locked, go on beside them."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NoLocksError):
            stack.enter_context(locked(folder, wait=True))
        yield


def prepared_cases(folder: Path) -> list[str]:
    """Cases that a folder lists as ready, whatever their raw files: for machines that hold no raw data."""
    manifest = folder / MANIFEST
    return sorted(read_json(manifest)["cases"]) if manifest.is_file() else []


def check_arrays(folder: Path, cases: Iterable[str], num_channels: int) -> None:
    """Open every preprocessed image and read its last voxel.

    Raises:
        DataError: a file is missing, truncated or has another number of channels; all such files are named.
    """
    problems = [p for p in (_array_problem(array_file(folder, c), num_channels) for c in cases) if p]
    if problems:
        heading = f"{len(problems)} preprocessed file(s) cannot be used:"
        raise DataError(
            f"{listing(heading, problems)}\nDelete them and preprocess again (nnUNetv2_preprocess for "
            "labelled cases, nnUNetv2_ssl preprocess for imagesUn)."
        )


def _array_problem(path: Path, num_channels: int) -> str | None:
    if not path.is_file():
        return f"{path}: missing"
    try:
        array = blosc2.open(urlpath=str(path), mode="r")
        np.asarray(array[tuple(slice(s - 1, s) for s in array.shape)])
    except Exception as error:  # blosc2 raises various types for broken files
        return f"{path}: corrupt ({error})"
    if array.shape[0] != num_channels:
        return f"{path}: expected {num_channels} channel(s), found {array.shape[0]}"
    return None


def _prepare_safely(recipe: Recipe, scan: tuple[str, list[Path]]) -> str | None:
    """Preprocess one scan; returns what is wrong with it, or nothing."""
    case, files = scan
    try:
        _prepare(recipe, case, files)
    except DataError as error:
        return f"{case}: {error}"
    except Exception as error:  # readers raise whatever their library raises
        return f"{case}: unreadable ({type(error).__name__}: {reason(error)})"
    return None


def _prepare(recipe: Recipe, case: str, files: list[Path]) -> None:
    plans = PlansManager(recipe.plans)
    configuration = plans.get_configuration(recipe.configuration)
    ending = recipe.dataset_json["file_ending"]
    expected = [f"{case}_{channel:04d}{ending}" for channel in range(len(files))]
    if [f.name for f in files] != expected:
        raise DataError(f"expected {', '.join(expected)}, found {', '.join(f.name for f in files)}")
    data, properties = plans.image_reader_writer_class().read_images([str(f) for f in files])
    _check_scan(data, channel_names(recipe.dataset_json), len(configuration.patch_size))
    _check_stored_values(files)
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, _ = preprocessor.run_case_npy(data, None, properties, plans, configuration, recipe.dataset_json)
    _save(data.astype(np.float32, copy=False), array_file(recipe.folder, case), configuration.patch_size)


def _check_scan(data: np.ndarray, channels: Sequence[str], dimension: int) -> None:
    if data.ndim != 4 or data.shape[0] != len(channels):  # a file may hold several: colours
        raise DataError(
            f"expected {len(channels)} channel(s) ({', '.join(channels)}), found an image of shape "
            f"{data.shape} (channels first)"
        )
    if dimension == 3 and 1 in data.shape[1:]:
        raise DataError(f"expected a 3D scan, found a 2D image of shape {data.shape[1:]}")
    if not np.isfinite(data).all():
        raise DataError(f"{int((~np.isfinite(data)).sum())} voxel(s) are NaN or infinite")
    if all(channel.min() == channel.max() for channel in data):
        raise DataError(f"the image is constant ({data.flat[0]})")


def _check_stored_values(files: list[Path]) -> None:
    """Look for NaN in NIfTI files as they are stored: ITK, nnU-Net's reader, turns it into 0 unasked."""
    for file in files:
        if file.name.endswith((".nii", ".nii.gz")):
            stored = np.asanyarray(nibabel.load(file).dataobj)  # type: ignore[attr-defined]
            if stored.dtype.kind == "f" and not np.isfinite(stored).all():
                raise DataError(f"{int((~np.isfinite(stored)).sum())} voxel(s) are NaN or infinite")


def _save(data: np.ndarray, path: Path, patch_size: list[int]) -> None:
    blocks, chunks = comp_blosc2_params(data.shape, tuple(patch_size), data.itemsize)
    # .tmp first: a name that ends in .b2nd, as blosc2 wants it, but that no one takes for a case
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.b2nd")
    temporary.unlink(missing_ok=True)
    blosc2.asarray(
        np.ascontiguousarray(data),
        urlpath=str(temporary),
        chunks=chunks,
        blocks=blocks,
        cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1},
    )
    os.replace(temporary, path)


def _stamp(files: list[Path]) -> list[list[Any]]:
    """Name, size and modification time of the raw files: cheap, and changes when a scan is replaced.

    Of a link whose file is gone the name alone, which no finished scan has: it is told with the others.
    """
    return [[f.name, *([f.stat().st_size, f.stat().st_mtime_ns] if f.exists() else [])] for f in files]


def _read_manifest(folder: Path, fingerprint: str) -> dict[str, Any]:
    """Cases that are done; none if the folder was made from other plans."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    manifest = read_json(path)
    return manifest["cases"] if manifest["plans"] == fingerprint else {}


def _write_manifest(folder: Path, fingerprint: str, cases: dict[str, Any]) -> None:
    write_json_atomically(folder / MANIFEST, {"plans": fingerprint, "cases": cases})


def _remove_leftovers(folder: Path, keep: set[str]) -> None:
    """Remove arrays of scans that are gone, and what an interrupted process left half-written."""
    for path in folder.glob("*.b2nd"):
        if path.stem not in keep and not (path.name.startswith(".") and _is_new(path)):
            path.unlink(missing_ok=True)


def _is_new(path: Path) -> bool:
    """Whether another process may still be writing a file; it may also have renamed it just now."""
    try:
        return time.time() - path.stat().st_mtime < _ABANDONED
    except FileNotFoundError:
        return True
