"""Read the files of one case, each once, and keep the facts."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.doctor.facts import QUANTILE_LEVELS, CaseFacts, ChannelFacts, Geometry, LabelFacts
from nnunet_ssl.doctor.inventory import CaseFiles
from nnunet_ssl.doctor.nifti import count_nonfinite
from nnunet_ssl.doctor.thumbnails import thumbnail
from nnunet_ssl.errors import reason

_SAMPLE = 200_000  # voxels that quantiles are taken from
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
Box = tuple[tuple[int, int], ...]


class Reader(Protocol):
    """What is needed of nnU-Net's reader/writer classes."""

    def read_images(self, image_fnames: list[str]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Image (C, z, y, x) and its properties."""

    def read_seg(self, seg_fname: str) -> tuple[NDArray[Any], dict[str, Any]]:
        """Label (1, z, y, x) and its properties."""


def read_case(files: CaseFiles, reader_class: type[Reader]) -> CaseFacts:
    """Read every file of a case; what cannot be read is written down, not raised.

    Channels are read one by one: where they differ in shape, the reader would refuse them together and not
    say which one is wrong, and one channel at a time needs less memory.
    """
    reader = reader_class()
    channels: list[ChannelFacts] = []
    boxes: list[Box] = []
    unreadable: list[tuple[str, str]] = []
    label = None
    for file in files.images:
        try:
            read, box = _read_image(file, reader)
            channels += read
            boxes += [box] if box else []
        except Exception as error:  # readers raise whatever their library raises
            unreadable.append((file.name, _why(file, error)))
    if files.label is not None:
        try:
            label = _read_label(files.label, reader)
        except Exception as error:
            unreadable.append((files.label.name, _why(files.label, error)))
    content = _union(boxes) if len({len(box) for box in boxes}) == 1 else ()
    return CaseFacts(files.folder, files.case, tuple(channels), label, content, tuple(unreadable))


def _why(file: Path, error: BaseException) -> str:
    if file.is_symlink() and not file.exists():
        return f"a link to {file.readlink()}, which is not there"
    return reason(error)


def geometry(shape: tuple[int, ...], properties: Mapping[str, Any]) -> Geometry:
    """Voxel grid as nnU-Net's readers describe it: each keeps direction and origin in its own way."""
    spacing = tuple(float(s) for s in properties["spacing"])
    affine = None
    if "sitk_stuff" in properties and len(properties["sitk_stuff"]["spacing"]) == 3:
        itk = properties["sitk_stuff"]
        direction = np.array(itk["direction"], dtype=float).reshape(3, 3)
        affine = np.eye(4)
        affine[:3, :3] = _LPS_TO_RAS @ direction @ np.diag(itk["spacing"])
        affine[:3, 3] = _LPS_TO_RAS @ np.array(itk["origin"], dtype=float)
    elif "nibabel_stuff" in properties:
        stuff = properties[
            "nibabel_stuff"
        ]  # a reader that reorients keeps both; the array follows the new one
        affine = np.array(stuff.get("reoriented_affine", stuff["original_affine"]), dtype=float)
    frozen = None if affine is None else tuple(tuple(float(v) for v in row) for row in affine)
    return Geometry(tuple(shape), spacing, frozen)


def _read_image(file: Path, reader: Reader) -> tuple[list[ChannelFacts], Box | None]:
    """Facts of each channel in a file (colour images have several), and the box of voxels other than 0."""
    hidden = count_nonfinite(file)
    with contextlib.redirect_stdout(io.StringIO()):  # some readers print a remark for every file
        array, properties = reader.read_images([str(file)])
    if array.size == 0:
        raise ValueError("the image has no voxels")
    grid, box = geometry(array.shape[1:], properties), _content_box(array)
    return [_channel_facts(file.name, channel, grid, hidden) for channel in array], box


def _channel_facts(name: str, array: NDArray[Any], grid: Geometry, hidden: int) -> ChannelFacts:
    """Facts of one channel (z, y, x), which is overwritten.

    Args:
        name: of the file.
        array: the voxels.
        grid: where they lie.
        hidden: NaN and infinite voxels that the reader has turned into 0.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16)
    digest.update(repr(array.shape).encode())
    finite = np.isfinite(array)
    nonfinite = int(array.size - np.count_nonzero(finite))
    if nonfinite:
        array[~finite] = 0
    del finite
    low, high = float(array.min()), float(array.max())
    # An odd step does not stay on one column of a grid of even width
    sample = np.sort(array.reshape(-1)[:: max(1, array.size // _SAMPLE) | 1]).astype(np.float64)
    content = sample[sample != 0] if sample.any() else sample
    window = _sorted_quantiles(sample, np.array([0.005, 0.995])).tolist()
    if window[0] == window[1]:
        window = [low, high]
    return ChannelFacts(
        file=name,
        geometry=grid,
        nonfinite=max(nonfinite, hidden),
        minimum=low,
        maximum=high,
        mean=float(content.mean()),
        std=float(content.std()),
        quantiles=_sorted_quantiles(content, QUANTILE_LEVELS).astype(np.float32),
        digest=digest.hexdigest(),
        thumbnail=None if low == high else thumbnail(array, grid.affine, (window[0], window[1])),
    )


def _sorted_quantiles(values: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """What ``numpy.quantile`` gives, for values that are sorted already: sorting is what takes its time."""
    return np.interp(levels * (len(values) - 1), np.arange(len(values)), values)


def _read_label(file: Path, reader: Reader) -> LabelFacts:
    hidden = count_nonfinite(file)
    with contextlib.redirect_stdout(io.StringIO()):
        array, properties = reader.read_seg(str(file))
    if array.shape[0] != 1:
        raise ValueError(f"a label has one channel, this one has {array.shape[0]}: save it as greyscale")
    counts: dict[float, int] = {}
    nonfinite = 0
    for part in array[0]:  # slice by slice: sorting a whole volume takes long and much memory
        finite = np.isfinite(part)
        nonfinite += int(part.size - np.count_nonzero(finite))
        values, numbers = _count(part[finite])
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            counts[value] = counts.get(value, 0) + number
    grid = geometry(array.shape[1:], properties)
    return LabelFacts(file.name, grid, counts, max(nonfinite, hidden))


def _count(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values that occur and how often; fast for small whole numbers."""
    whole = values.astype(np.int64)
    if values.size and (whole == values).all() and whole.min() >= 0 and whole.max() < 1 << 16:
        numbers = np.bincount(whole)
        found = np.flatnonzero(numbers)
        return found.astype(np.float64), numbers[found]
    return np.unique(values.astype(np.float64), return_counts=True)


def _content_box(array: NDArray[Any]) -> Box | None:
    """First and last position of voxels other than 0 along z, y, x, of (C, z, y, x); ``None`` without any."""
    box = []
    for axis in range(1, array.ndim):
        others = tuple(a for a in range(array.ndim) if a != axis)
        inside = np.flatnonzero(array.any(axis=others))
        if not inside.size:
            return None
        box.append((int(inside[0]), int(inside[-1])))
    return tuple(box)


def _union(boxes: list[Box]) -> tuple[int, ...]:
    return tuple(
        max(high for _, high in axis) - min(low for low, _ in axis) + 1 for axis in zip(*boxes, strict=True)
    )
