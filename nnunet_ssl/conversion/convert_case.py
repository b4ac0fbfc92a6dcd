"""Write the files of one case. Runs in a worker process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from nnunet_ssl.conversion import geometry, images
from nnunet_ssl.conversion.cases import LABEL_FOLDERS, Case, Source, files_of, image_folder
from nnunet_ssl.conversion.merge_files import place_file
from nnunet_ssl.errors import DataError, NNUNetSSLError


@dataclass(frozen=True)
class Job:
    """One case, and how to write it; attributes as in ``DatasetPlan``."""

    case: Case
    folder: Path
    file_ending: str
    values: Mapping[int, int]
    gray: bool
    copy: bool
    fingerprint: str


@dataclass(frozen=True)
class Outcome:
    """What became of a case: a record of it, or the reason why it failed."""

    case: str
    record: Mapping[str, Any] | None = None
    failure: str = ""


def targets(case: Case, file_ending: str) -> list[str]:
    """Paths of every file of a case, relative to the dataset: the channels, then the label if it has one."""
    folder = image_folder(case)
    paths = [f"{folder}/{case.identifier}_{i:04d}{file_ending}" for i in range(len(case.images))]
    if case.label is not None:
        paths.append(f"{LABEL_FOLDERS[case.subset]}/{case.identifier}{file_ending}")
    return paths


def convert(job: Job) -> Outcome:
    """Write a case; whatever a file may do to its reader is a failure of this case only."""
    try:
        return Outcome(job.case.identifier, record=_convert(job))
    except NNUNetSSLError as error:
        return Outcome(job.case.identifier, failure=str(error))
    except Exception as error:  # a broken file must not end the conversion of the others
        return Outcome(job.case.identifier, failure=f"{type(error).__name__}: {error}")


def _convert(job: Job) -> dict[str, Any]:
    case = job.case
    paths = [job.folder / path for path in targets(case, job.file_ending)]
    how, grids = [], []
    for source, path in zip(case.images, paths, strict=False):
        grid, way = _write_image(job, source, path)
        grids.append(grid)
        how.append(way)
    _check_channels(case, grids)
    if case.label is not None:
        how.append(_write_label(job, case.label, grids[0], paths[-1]))
    return {
        "case": case.identifier,
        "subset": case.subset,
        "group": case.together,
        "sources": [[str(p) for p in files_of(s)] for s in (*case.images, case.label) if s is not None],
        "how": how,
        "spacing": list(grids[0].spacing),
        "fingerprint": job.fingerprint,
    }


def _write_image(job: Job, source: Source, path: Path) -> tuple[geometry.Grid, str]:
    grid = _usable(job, source, channels=1 if job.gray else 3)
    if _is_itself(source, path):
        if grid is not None:
            return grid, "left"
        raise DataError(
            f"{job.case.identifier}: {source} must be converted, and would be replaced by the outcome. "
            "Write to another folder."
        )
    if grid is not None:
        return grid, _link(job, source, path)
    image = _with_channels(_load(job, source), job)
    images.write_image(image, path)
    return geometry.Grid.of(image), "converted"


def _with_channels(image: sitk.Image, job: Job) -> sitk.Image:
    """An image with one value per voxel; with three where the dataset has colours."""
    if image.GetNumberOfComponentsPerPixel() == 1:
        return image if job.gray else sitk.Compose([image] * 3)
    if job.gray:
        raise DataError(f"{job.case.identifier}: the scan has several values per voxel: expected one.")
    return image


def _is_itself(source: Source, path: Path) -> bool:
    """Whether a file would be written over its own source; over a link to the source is fine."""
    return isinstance(source, Path) and not path.is_symlink() and source.resolve() == path.resolve()


def _write_label(job: Job, source: Source, grid: geometry.Grid, path: Path) -> str:
    label = _load(job, source, label=True)
    identical = all(old == new for old, new in job.values.items())
    usable = identical and _usable(job, source, channels=1) is not None
    if usable and geometry.same_grid(geometry.Grid.of(label), grid):
        geometry.check_values(label, job.values, job.case.identifier)
        return _link(job, source, path)
    label = geometry.fit_label(label, grid, job.case.identifier)
    images.write_image(geometry.mapped(label, job.values, job.case.identifier), path)
    return "converted"


def _usable(job: Job, source: Source, channels: int) -> geometry.Grid | None:
    """The grid of a file that nnU-Net can read as it is, else ``None``."""
    if not isinstance(source, Path) or images.ending_of(source) != job.file_ending:
        return None
    found = geometry.grid_of_file(source)
    if found is None or len(found[0].size) not in (2, 3):
        return None
    return found[0] if found[1] == channels else None


def _load(job: Job, source: Source, label: bool = False) -> sitk.Image:
    if not isinstance(source, Path):
        return source()
    if images.ending_of(source) in images.PICTURES:
        return images.read_label_picture(source) if label else images.read_picture(source, job.gray)
    return images.read_file(source)


def _link(job: Job, source: Source, path: Path) -> str:
    assert isinstance(source, Path)
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.unlink(missing_ok=True)
    how = place_file(source, temporary, job.copy)
    os.replace(temporary, path)
    return how


def _check_channels(case: Case, grids: Sequence[geometry.Grid]) -> None:
    for number, grid in enumerate(grids):
        if not geometry.same_grid(grid, grids[0]):
            raise DataError(
                f"{case.identifier}: channel {number} has {grid}, but channel 0 has {grids[0]}. nnU-Net "
                "needs all channels on the same voxels: register and resample them first."
            )
