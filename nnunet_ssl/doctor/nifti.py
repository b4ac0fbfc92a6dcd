"""What ITK, which reads NIfTI for nnU-Net, does not say: damaged files and NaN.

It reads a file that is cut off or whose checksum is wrong without a word, filling up with 0, and turns NaN
into 0. So the stored bytes are gone through before, in pieces; the reader finds the file in the cache then.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np

ENDINGS = (".nii", ".nii.gz")
_PIECE = 1 << 22  # bytes, a multiple of every number's size


def count_nonfinite(file: Path) -> int:
    """NaN and infinite voxels as stored; 0 for files of whole numbers, and for files that are no NIfTI.

    Raises:
        ValueError: the file is cut off.
        OSError, EOFError, zlib.error: it cannot be unpacked, or its checksum is wrong.
    """
    if not file.name.lower().endswith(ENDINGS):
        return 0
    image: Any = nibabel.load(file)
    dtype, offset = image.dataobj.dtype, image.dataobj.offset
    expected = math.prod(image.shape) * dtype.itemsize
    opener: Any = gzip.open if file.name.lower().endswith(".gz") else open
    with opener(file, "rb") as stream:
        stream.read(offset)
        found, nonfinite = _count(stream, expected, dtype)
        while stream.read(_PIECE):  # to the end, where the checksum is
            pass
    if found < expected:
        raise ValueError(f"the file is cut off: {found} of {expected} bytes of voxels are there")
    return nonfinite


def _count(stream: IO[Any], expected: int, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Bytes that are there, up to ``expected``, and numbers in them that are not finite."""
    found = nonfinite = 0
    while found < expected:
        piece = stream.read(min(_PIECE, expected - found))
        if not piece:
            break
        found += len(piece)
        if dtype.kind == "f":
            numbers = np.frombuffer(piece, dtype, count=len(piece) // dtype.itemsize)
            nonfinite += int(numbers.size - np.count_nonzero(np.isfinite(numbers)))
    return found, nonfinite
