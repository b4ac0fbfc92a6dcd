"""Read all cases in parallel, with a progress bar and bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import SimpleITK as sitk
from tqdm import tqdm

from nnunet_ssl.doctor.facts import CaseFacts
from nnunet_ssl.doctor.inventory import CaseFiles
from nnunet_ssl.doctor.machine import available_memory
from nnunet_ssl.doctor.reading import Reader, read_case
from nnunet_ssl.parallel import run_jobs

# Measured with 400^3 voxels, reader included: a worker peaks at 8 bytes per voxel of one channel stored as
# int16, at 12 if stored as float32.
BYTES_PER_VOXEL = 14
_FEW = 8  # cases that are read before other processes would have started


def scan(cases: Sequence[CaseFiles], reader_class: type[Reader], num_processes: int) -> list[CaseFacts]:
    """Facts of every case, in the order of ``cases``.

    Args:
        cases: their files.
        reader_class: nnU-Net's reader for the dataset.
        num_processes: workers wanted; fewer are taken if memory would not hold as many of the largest scans.

    Raises:
        DataError: a worker was killed.
    """
    workers = min(num_processes, affordable_workers(cases))
    read = partial(read_case, reader_class=reader_class)
    results = run_jobs(read, cases, workers, few=_FEW)
    # None hides it where nobody looks, as in a log file
    by_position = dict(tqdm(results, total=len(cases), desc="Reading cases", disable=None))
    return [by_position[i] for i in range(len(cases))]


def affordable_workers(cases: Sequence[CaseFiles]) -> int:
    """How many scans as large as the largest fit into half of the memory that is free; at least 1."""
    memory = available_memory()
    files = sorted((f for case in cases for f in case.files if f.exists()), key=lambda f: f.stat().st_size)
    largest = max((_voxels(file) for file in files[-3:]), default=0)
    if memory is None or largest == 0:
        return 1 << 16
    return max(1, int(memory / 2 / (largest * BYTES_PER_VOXEL)))


def _voxels(file: Path) -> int:
    """Voxels of a file, from its header; for file types that ITK does not know, from the size."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # corrupt, or of another type: the size is all there is
        return file.stat().st_size
    voxels = reader.GetNumberOfComponents()
    for length in reader.GetSize():
        voxels *= length
    return int(voxels)
