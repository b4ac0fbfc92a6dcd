"""Read scans and label maps with nnU-Net's own readers, and compare their geometries.

Whatever nnU-Net trains on can be read. What is wrong with a file comes back as text that names it, so that
one bad case hides no other.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.errors import DataError, few, reason
from nnunet_ssl.tasks import IGNORE

# Headers keep float32, and writers round: a hundredth of a voxel is no displacement.
_GEOMETRY_TOLERANCE = 0.01
# Up to half a voxel the right voxels still lie on each other; nnU-Net, too, goes on with a warning.
_DISPLACED = 0.5

LabelMap = NDArray[np.unsignedinteger[Any]]


def find_files(folder: Path, ending: str) -> dict[str, Path]:
    """Case identifier to file, in the order of the names.

    Raises:
        DataError: the folder is missing or holds no such file.
    """
    if not folder.is_dir():
        raise DataError(f"Folder {folder} does not exist.")
    files = sorted(f for f in folder.iterdir() if f.name.endswith(ending) and f.is_file())
    if not files:
        found = sorted({"".join(f.suffixes) or f.name for f in folder.iterdir() if f.is_file()})
        raise DataError(
            f"Folder {folder} holds no file that ends with '{ending}' (dataset.json['file_ending']); "
            f"found {'files that end with ' + few(found) if found else 'no files at all'}."
        )
    return {f.name[: -len(ending)]: f for f in files}


def find_reader(dataset_json: Mapping[str, Any], examples: Sequence[Path]) -> type:
    """nnU-Net's reader class for the first of ``examples`` that any reader can open.

    Raises:
        DataError: there is none.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    failures = []
    for example in examples:
        said = io.StringIO()  # nnU-Net prints a traceback for every reader that does not fit
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                return determine_reader_writer_from_dataset_json(
                    dict(dataset_json), str(example), verbose=False
                )
        except RuntimeError:
            failures.append(f"{example}: no reader of nnU-Net can open it. {reason(said.getvalue())}")
    raise DataError(failures[0] if failures else "There is no file to read.")


def knows_spacing(reader: type) -> bool:
    """Whether the file format says how large a voxel is; of png and the like nnU-Net says (999, 1, 1)."""
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    return not issubclass(reader, NaturalImage2DIO)


def known_labels(dataset_json: Mapping[str, Any]) -> tuple[frozenset[int], int | None]:
    """Every label value that dataset.json names, without the ignore label, and the ignore label."""
    labels = dataset_json["labels"]
    known = {0}
    for name, value in labels.items():
        if name != IGNORE:
            known.update(int(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
    ignore = labels.get(IGNORE)
    return frozenset(known), None if ignore is None else int(ignore)


def read_labels(
    file: Path, reader: type, known: frozenset[int], problems: list[str]
) -> tuple[LabelMap | None, dict[str, Any]]:
    """Label map (Z, Y, X) and geometry of one file; ``None`` and a problem unless it maps known labels."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the tif reader comments on each file
            array, geometry = reader().read_seg(str(file))
    except Exception as error:  # whatever the reader's library raises, the user needs the file's name
        problems.append(f"{file}: cannot be read ({reason(error)})")
        return None, {}
    if len(array) != 1:
        problems.append(f"{file}: holds {len(array)} channels, expected a map of labels")
        return None, geometry
    foreign = [v for v in _values(array[0]) if v not in known]
    if foreign:
        shown = few(f"{v:g}" for v in foreign)
        allowed = ", ".join(map(str, sorted(known)))
        problems.append(f"{file}: holds label(s) {shown}; dataset.json knows {allowed}")
        return None, geometry
    # readers give floats of 4 or 8 bytes; the smallest type keeps a large scan small
    return array[0].astype(np.min_scalar_type(max(known))), geometry


def read_image(files: Sequence[Path], dataset_json: Mapping[str, Any]) -> tuple[NDArray[Any], list[float]]:
    """Channels of one scan (C, Z, Y, X), and the size of a voxel (1 where the format knows none).

    Raises:
        DataError: no reader of nnU-Net can open the files.
    """
    reader = find_reader(dataset_json, files[:1])
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            array, properties = reader().read_images([str(f) for f in files])
    except Exception as error:  # as above
        raise DataError(f"{files[0]}: cannot be read ({reason(error)})") from error
    spacing = properties["spacing"] if knows_spacing(reader) else [1.0] * (array.ndim - 1)
    return array, [float(s) for s in spacing]


def _values(array: NDArray[Any]) -> NDArray[np.float64]:
    """The values that occur in ``array`` (Z, Y, X), ascending; slice by slice: copies are large."""
    return np.unique(np.concatenate([_values_of_slice(plane) for plane in array]))


def _values_of_slice(plane: NDArray[Any]) -> NDArray[np.float64]:
    if plane.min() >= 0 and plane.max() < 2**16:  # counting is much faster than sorting
        whole = plane.astype(np.int64)
        if (whole == plane).all():
            return np.flatnonzero(np.bincount(whole.ravel())).astype(np.float64)
    return np.unique(plane).astype(np.float64)


def read_geometry(file: Path, reader: type) -> tuple[tuple[int, ...], Mapping[str, Any]]:
    """Shape (Z, Y, X) and geometry of one channel of a scan; of a 3D file that ITK reads, only the header.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        header = _itk_header(file, reader)
        if header is not None:
            return header
        with contextlib.redirect_stdout(io.StringIO()):
            array, geometry = reader().read_images([str(file)])
    except Exception as error:  # as above
        raise DataError(f"{file}: cannot be read ({reason(error)})") from error
    return array.shape[1:], geometry


def _itk_header(file: Path, reader: type) -> tuple[tuple[int, ...], Mapping[str, Any]] | None:
    """What nnU-Net's ITK reader would say of a 3D image; ``None`` for other readers and images."""
    import SimpleITK as sitk
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    if reader is not SimpleITKIO:  # one that inherits from it reorients
        return None
    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    header.ReadImageInformation()
    if header.GetDimension() != 3 or header.GetNumberOfComponents() != 1:
        return None
    itk = {"origin": header.GetOrigin(), "direction": header.GetDirection()}
    spacing = [abs(s) for s in header.GetSpacing()[::-1]]
    return tuple(header.GetSize()[::-1]), {"spacing": spacing, "sitk_stuff": itk}


def geometry_differences(
    reference: Mapping[str, Any], other: Mapping[str, Any], name: str = "the reference"
) -> tuple[list[str], list[str]]:
    """What differs between the geometries of two files, as nnU-Net's reader gives them.

    Compares spacing, and origin, direction or affine where the reader knows them. A hundredth of a voxel is
    no difference.

    Args:
        reference: what is expected.
        other: what is found.
        name: of what is expected, for the phrases.

    Returns:
        Phrases such as ``spacing (1, 1, 2), the reference has (1, 1, 1)``: those that forbid to lay voxel on
        voxel, and those on a place that is less than half a voxel off.
    """
    voxel = float(np.min(reference["spacing"]))
    numbers = _numbers(reference), _numbers(other)
    wrong: list[str] = []
    odd: list[str] = []
    for key in sorted(numbers[0].keys() | numbers[1].keys()):
        expected, found = (n.get(key, np.empty(0)) for n in numbers)
        # a cosine acts on the whole width of a scan, hence a stricter tolerance for direction
        unit = 0.1 if key == "direction" else voxel
        same_kind = expected.shape == found.shape
        if same_kind and np.allclose(expected, found, rtol=0, atol=_GEOMETRY_TOLERANCE * unit):
            continue
        near = same_kind and np.allclose(expected, found, rtol=0, atol=_DISPLACED * unit)
        phrase = f"{key} {_show(found)}, {name} has {_show(expected)}"
        (odd if near and key != "spacing" else wrong).append(phrase)
    return wrong, odd


def note_displaced(files: str, others: str, found: Sequence[str]) -> list[str]:
    """A sentence about files that headers place a little beside the others; none where none is."""
    if not found:
        return []
    return [
        f"{len(found)} {files} are less than half a voxel beside their {others} by the header, and are "
        f"scored voxel by voxel all the same: {few(found, 3)}."
    ]


def _numbers(properties: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The numeric entries of a reader's properties, whether at the top or in its own sub-dictionary."""
    entries = dict(properties)
    for value in properties.values():
        if isinstance(value, Mapping):
            entries.update({k: v for k, v in value.items() if k != "spacing"})
    numeric = {k: v for k, v in entries.items() if not isinstance(v, (str, Mapping))}
    return {k: np.asarray(v, dtype=np.float64).ravel() for k, v in numeric.items()}


def _show(values: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"
