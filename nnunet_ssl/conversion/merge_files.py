"""Write a merged dataset: images linked, label files with new numbers, the final name only when complete."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import DataError, NNUNetSSLError, few
from nnunet_ssl.json_files import write_json_atomically


@dataclass(frozen=True)
class LabelFile:
    """A label file to write anew: old values to new values."""

    source: Path
    target: str
    values: Mapping[int, int]
    reader: Any


@dataclass(frozen=True)
class MergePlan:
    """A merged dataset that can be written: all checks have passed.

    Attributes:
        name: full name of the merged dataset.
        sources: full names of the datasets merged.
        dataset_json: its description, tasks included.
        images: files to link or copy, and where to (relative to the dataset's folder).
        labels: label files to write anew.
        cases: new case identifiers in each image folder.
    """

    name: str
    sources: tuple[str, ...]
    dataset_json: Mapping[str, Any]
    images: Sequence[tuple[Path, str]]
    labels: Sequence[LabelFile]
    cases: Mapping[str, Sequence[str]]


def write_merge(plan: MergePlan, folder: Path, copy: bool = False) -> Counter[str]:
    """Write a merged dataset; an older one in ``folder`` is replaced.

    It is built in a hidden folder beside and renamed at the end, so that an interruption leaves nothing that
    looks finished.

    Args:
        plan: what to write.
        folder: where to.
        copy: copy the images rather than link them.

    Returns:
        How many image files were ``linked``, ``hard-linked`` or ``copied``.

    Raises:
        DataError: a label file is unreadable or holds a value that its dataset does not declare.
    """
    from tqdm import tqdm

    building = folder.with_name(
        f".{folder.name}.building"
    )  # nnU-Net lists names that start with "Dataset" only
    shutil.rmtree(building, ignore_errors=True)
    how: Counter[str] = Counter()
    try:
        for place in {"imagesTr", "labelsTr", *(target.split("/")[0] for target in _targets(plan))}:
            (building / place).mkdir(parents=True)
        for source, target in tqdm(plan.images, desc="images", disable=None):
            how[place_file(source, building / target, copy)] += 1
        for label in tqdm(plan.labels, desc="labels", disable=None):
            remap_label_file(label, building / label.target)
        write_json_atomically(building / "dataset.json", plan.dataset_json)
        replace_folder(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return how


def place_file(source: Path, target: Path, copy: bool) -> str:
    """Put ``source`` at ``target``: a symbolic link, else a hard link, else (or with ``copy``) a copy.

    Returns:
        ``linked``, ``hard-linked`` or ``copied``.
    """
    source = source.resolve()  # not a link to a link: the dataset in between may be removed
    if not copy:
        # Windows allows symbolic links to administrators only; hard links end at the file system's border.
        for link, how in ((_symlink, "linked"), (os.link, "hard-linked")):
            try:
                link(source, target)
            except (OSError, NotImplementedError):
                continue
            return how
    # Under another name first: half a copy that an interruption leaves would count as there
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return "copied"


def spacing_file(file: Path, ending: str, is_label: bool = False) -> Path | None:
    """The file that holds the spacing of a 3D TIFF: ``CASE.json`` beside it, where nnU-Net's reader looks.

    Args:
        file: a channel of a scan, ``CASE_0000`` and ``ending``, or a label file.
        ending: of the dataset's files.
        is_label: a label's name has no channel.

    Returns:
        ``None`` where there is none, as with most file types.
    """
    name = file.name.removesuffix(ending)
    found = file.with_name(f"{name if is_label else name[: -len('_0000')]}.json")
    return found if found.is_file() else None


def remap_label_file(label: LabelFile, target: Path) -> None:
    """Write a label file with new values; geometry stays, the type is the smallest that fits.

    Raises:
        DataError: the file is unreadable or holds a value that its dataset does not declare.
    """
    import numpy as np

    try:
        old, properties = label.reader.read_seg(str(label.source))
    except Exception as error:  # each of nnU-Net's readers fails in its own way
        raise DataError(f"Cannot read the label file {label.source}: {error}") from error
    if old.ndim != 4 or old.shape[0] != 1:
        raise DataError(f"{label.source} has shape {old.shape}: expected one channel of labels.")
    unknown = [f"{value:g}" for value in np.unique(old) if value not in label.values]
    if unknown:
        raise DataError(
            f"{label.source} holds the value(s) {few(unknown)}, but its dataset.json declares "
            f"{sorted(label.values)}. Correct the file or dataset.json."
        )
    lookup = np.zeros(max(label.values) + 1, dtype=np.uint16)
    lookup[list(label.values)] = list(label.values.values())
    label.reader.write_seg(lookup[old.astype(np.int64)][0], str(target), properties)


def _targets(plan: MergePlan) -> Iterator[str]:
    yield from (target for _, target in plan.images)
    yield from (label.target for label in plan.labels)


def _symlink(source: Path, target: Path) -> None:
    raw, folder = os.environ.get("nnUNet_raw"), target.parent.resolve()
    # Within nnUNet_raw a relative link still holds where that is moved or mounted elsewhere
    if raw and all(path.is_relative_to(Path(raw).resolve()) for path in (source, folder)):
        source = Path(os.path.relpath(source, folder))
    os.symlink(source, target)


def replace_folder(new: Path, folder: Path) -> None:
    """Give ``new`` the name of ``folder``; what bore it is removed, or stays if that fails.

    Raises:
        NNUNetSSLError: the folder could not be replaced.
    """
    if not folder.exists():
        new.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError as error:
        old.rename(folder)
        raise NNUNetSSLError(f"Could not replace {folder}: {error}. It is as it was.") from error
    shutil.rmtree(old, ignore_errors=True)
