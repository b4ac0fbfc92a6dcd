"""Join datasets into one with the union of their labels: each source becomes a task, or keeps its tasks.

Here everything is checked and decided; ``merge_files`` writes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_ssl.conversion.merge_files import LabelFile, MergePlan, spacing_file
from nnunet_ssl.data.dataset_json import (
    channel_names,
    check_new_name,
    dataset_folder,
    find_dataset,
    read_dataset_json,
    root_folder,
    training_cases,
)
from nnunet_ssl.data.layout import list_images
from nnunet_ssl.errors import DataError, TaskError
from nnunet_ssl.tasks import BLOCK, IGNORE, Task, TaskTable

MERGED_FROM = "merged_from"  # beside the tasks in our block: --overwrite replaces only what merge has made
READER = "overwrite_image_reader_writer"  # nnU-Net's key
# Folders whose cases must differ: what is unlabelled must be neither labelled nor test data.
_APART = (("imagesTr", "imagesUn"), ("imagesTs", "imagesUn"))


def case_prefix(name: str) -> str:
    """What the case identifiers of a dataset get in front: its name without ``DatasetXXX_``."""
    return f"{name.split('_', 1)[-1]}_"


@dataclass(frozen=True)
class Source:
    """One dataset to merge.

    Attributes:
        name: full name, such as ``Dataset501_LeftAtriumMR``.
        dataset_json: its description.
        table: its tasks.
        images: image files of each case in ``imagesTr``, ``imagesUn`` and ``imagesTs``.
        labels: label file of each case in ``labelsTr`` and ``labelsTs``.
    """

    name: str
    dataset_json: Mapping[str, Any]
    table: TaskTable
    images: Mapping[str, Mapping[str, Sequence[Path]]]
    labels: Mapping[str, Mapping[str, Path]]

    @property
    def short(self) -> str:
        """The name without ``DatasetXXX_``."""
        return self.name.split("_", 1)[-1]

    @property
    def prefix(self) -> str:
        """What its case identifiers get in front."""
        return case_prefix(self.name)

    @cached_property
    def channels(self) -> list[str]:
        """Names of the channels in order."""
        return channel_names(self.dataset_json)

    @cached_property
    def first_image(self) -> list[str]:
        """Files of the first labelled case."""
        return [str(path) for path in next(iter(self.images["imagesTr"].values()))]

    @cached_property
    def reader(self) -> Any:
        """nnU-Net's reader and writer for the files of this dataset."""
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        try:
            reader = determine_reader_writer_from_dataset_json(
                dict(self.dataset_json), self.first_image[0], verbose=False
            )
        except RuntimeError as error:
            raise DataError(f"nnU-Net cannot read {self.first_image[0]} of {self.name}: {error}") from error
        return reader()


def load_source(id_or_name: int | str) -> Source:
    """Read what merging needs to know about a raw dataset.

    Raises:
        DataError: it is missing, has no labelled case, lacks a file, or has regions or an ignore label.
        TaskError: its task table is inconsistent.
    """
    name = find_dataset(id_or_name)
    folder = dataset_folder("raw", name)
    dataset_json = read_dataset_json(folder)
    table = TaskTable.from_dataset_json(dataset_json)
    if table.has_regions or IGNORE in dataset_json["labels"]:
        kind = "region-based labels" if table.has_regions else "an ignore label"
        raise DataError(f"{name} has {kind}, which cannot be merged. Convert it to plain labels first.")
    training = training_cases(folder, dataset_json)
    ending = dataset_json["file_ending"]
    images = {place: list_images(folder / place, ending) for place in ("imagesUn", "imagesTs")}
    images["imagesTr"] = {case: files for case, (files, _) in training.items()}
    test = {case: folder / "labelsTs" / f"{case}{ending}" for case in images["imagesTs"]}
    labels = {
        "labelsTr": {case: label for case, (_, label) in training.items()},
        "labelsTs": {case: path for case, path in test.items() if path.is_file()},  # some or all may lack one
    }
    source = Source(name, dataset_json, table, images, labels)
    _check_files(source)
    return source


def plan_merge(sources: Sequence[Source], name: str, prefix_labels: bool = False) -> MergePlan:
    """Decide labels, tasks, channels and files of the merged dataset.

    Args:
        sources: the datasets, in the order of their labels.
        name: full name of the merged dataset.
        prefix_labels: call the labels ``{task}_{label}``.

    Raises:
        DataError: the datasets do not go together, or two cases would get the same identifier.
        TaskError: a label or task name is taken twice.
    """
    _check_sources(sources, name)
    channels = merge_channels(sources)
    _check_dimensions(sources)
    labels, tasks = merge_labels(sources, prefix_labels)
    table = TaskTable(labels, tasks)
    cases = _merge_cases(sources, table)
    ending = sources[0].dataset_json["file_ending"]
    dataset_json = {
        "channel_names": {str(i): channel for i, channel in enumerate(channels)},
        "labels": labels,
        "numTraining": len(cases["imagesTr"]),
        "file_ending": ending,
        "name": name.split("_", 1)[-1],
        BLOCK: {"tasks": table.to_json(), MERGED_FROM: [source.name for source in sources]},
    }
    if READER in sources[0].dataset_json:
        dataset_json[READER] = sources[0].dataset_json[READER]
    return MergePlan(
        name=name,
        sources=tuple(source.name for source in sources),
        dataset_json=dataset_json,
        images=[item for source in sources for item in _image_files(source, ending)],
        labels=list(_label_files(sources, ending)),
        cases=cases,
    )


def merge_labels(sources: Sequence[Source], prefix_labels: bool) -> tuple[dict[str, int], list[Task]]:
    """Number the labels of all sources from 1 on and rewrite their tasks.

    Raises:
        TaskError: two labels would bear the same name.
    """
    labels = {"background": 0}
    owners: dict[str, str] = {}
    tasks = []
    for source in sources:
        renamed = {}
        for prompt in source.table.prompts:
            task = _task_name(source, prompt.task)
            label = f"{task}_{prompt.label}" if prefix_labels else prompt.label
            # Prediction asks for labels in any case, so names that differ in case only would be ambiguous.
            other = owners.setdefault(label.lower(), source.name)
            if other != source.name:
                hint = "Rename one." if prefix_labels else "Add --prefix-labels to call them TASK_LABEL."
                raise TaskError(f"Both {other} and {source.name} have a label '{label}'. {hint}")
            renamed[prompt.label] = label
            labels[label] = len(labels)
        tasks += [_renamed_task(source, index, renamed) for index in range(len(source.table))]
    return labels, tasks


def merge_channels(sources: Sequence[Source]) -> list[str]:
    """Channel names of the merged dataset; they decide how nnU-Net normalises.

    Names that agree are kept (all CT stays CT). Otherwise the name is new to nnU-Net, which normalises such
    channels by z-score.

    Raises:
        DataError: the numbers of channels differ, or one source asks for a normalisation the others lack.
    """
    first = sources[0]
    for source in sources[1:]:
        if len(source.channels) != len(first.channels):
            raise DataError(
                f"{first.name} has {len(first.channels)} channel(s) ({', '.join(first.channels)}) but "
                f"{source.name} has {len(source.channels)} ({', '.join(source.channels)}). Merge datasets of "
                "equally many channels."
            )
    return [_merge_channel(i, [source.channels[i] for source in sources]) for i in range(len(first.channels))]


def check_target(name: str, sources: Sequence[str], overwrite: bool) -> Path:
    """Folder that the merged dataset will get.

    Args:
        name: full name of the merged dataset.
        sources: full names of the datasets that it joins.
        overwrite: replace a merged dataset of that name.

    Raises:
        DataError: the name is malformed, its number is taken, or the dataset exists and may not be replaced.
    """
    check_new_name(name)
    folder = root_folder("raw") / name
    if not folder.exists():
        return folder
    if not overwrite:
        raise DataError(f"{folder} exists. Choose another number or name, or add --overwrite to replace it.")
    if name in sources:
        raise DataError(f"{name} is itself to be merged and cannot be replaced. Choose another number (-o).")
    if MERGED_FROM not in read_dataset_json(folder).get(BLOCK, {}):
        raise DataError(
            f"{folder} was not made by merge and is not replaced. Remove it, or choose another -o."
        )
    return folder


def task_rows(plan: MergePlan) -> list[tuple[object, ...]]:
    """Rows of task, labels with their numbers, training, unlabelled and test cases."""
    table = TaskTable.from_dataset_json(plan.dataset_json)
    counts = {
        place: Counter(table.known_task_of(case) for case in plan.cases[place])
        for place in ("imagesTr", "imagesUn", "imagesTs")
    }
    rows: list[tuple[object, ...]] = []
    for index, task in enumerate(table.tasks):
        labels = ", ".join(f"{plan.dataset_json['labels'][label]} {label}" for label in task.labels)
        rows.append((task.name, labels, *(counts[p][index] for p in ("imagesTr", "imagesUn", "imagesTs"))))
    if counts["imagesUn"][-1] or counts["imagesTs"][-1]:
        rows.append(("(unknown)", "", 0, counts["imagesUn"][-1], counts["imagesTs"][-1]))
    return rows


def _check_files(source: Source) -> None:
    if not source.images["imagesTr"]:
        raise DataError(
            f"{source.name} has no training images: expected files such as imagesTr/CASE_0000"
            f"{source.dataset_json['file_ending']} in {dataset_folder('raw', source.name)}."
        )
    missing = [path for path in source.labels["labelsTr"].values() if not path.is_file()]
    if missing:
        raise DataError(
            f"{source.name} lacks {len(missing)} label file(s), first {missing[0]}. "
            "Add them, or move the scans without labels to imagesUn."
        )
    expected = len(source.first_image)
    for place, cases in source.images.items():
        for case, files in cases.items():
            if len(files) != expected:
                raise DataError(
                    f"Case '{case}' in {place} of {source.name} has {len(files)} image file(s), expected "
                    f"{expected} as in the first training case. Add what is missing or remove the case."
                )


def _check_sources(sources: Sequence[Source], name: str) -> None:
    if len(sources) < 2:
        raise DataError(f"Merging needs at least 2 datasets, got {len(sources)}.")
    names = [source.name for source in sources]
    twice = [n for n, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{', '.join(twice)} is given twice. Name each dataset once.")
    first = sources[0]
    for key, advice in (
        ("file_ending", "Convert the images of one"),
        (READER, "Set the same reader in both"),
    ):
        for source in sources[1:]:
            mine, other = first.dataset_json.get(key), source.dataset_json.get(key)
            if mine != other:
                raise DataError(
                    f"{first.name} has {key} '{mine}' but {source.name} has '{other}'. "
                    f"{advice} before {name} is made."
                )


def _check_dimensions(sources: Sequence[Source]) -> None:
    dimensions = {source.name: _dimension(source) for source in sources}
    if len(set(dimensions.values())) > 1:
        found = ", ".join(f"{name} is {dimension}D" for name, dimension in dimensions.items())
        raise DataError(f"The images must be all 2D or all 3D: {found}. Merge those of one kind.")


def _dimension(source: Source) -> int:
    """2 or 3, as nnU-Net's reader sees the first image; a 2D image is one slice."""
    image, _ = source.reader.read_images(source.first_image)
    if len(image) != len(source.channels):
        raise DataError(
            f"The first case of {source.name} ({source.first_image[0]}) has {len(image)} channel(s), but its "
            f"dataset.json names {len(source.channels)}. Correct channel_names or the images."
        )
    return 2 if image.shape[1] == 1 else 3


def _merge_channel(index: int, names: Sequence[str]) -> str:
    from nnunetv2.preprocessing.normalization import map_channel_name_to_normalization as nnunet

    unique: dict[str, str] = {}
    for name in names:
        unique.setdefault(name.casefold(), name)
    if len(unique) == 1:
        return names[0]
    # z-score may stand in for CT's fixed window, both end near mean 0 and variance 1; not so the others.
    kept = ("ZScoreNormalization", "CTNormalization")
    special = [name for name in names if nnunet.get_normalization_scheme(name).__name__ not in kept]
    if special:
        raise DataError(
            f"Channel {index} is called {' and '.join(unique.values())} in the datasets, and '{special[0]}' "
            "asks nnU-Net for a normalisation of its own. Give the channel one name in all of them."
        )
    return "_".join(["mixed", *(name.removeprefix("mixed_") for name in unique.values())])


def _task_name(source: Source, task: int) -> str:
    # A dataset of one task goes by its own name; one that was merged before keeps the names of its tasks.
    return source.short if len(source.table) == 1 else source.table.tasks[task].name


def _renamed_task(source: Source, index: int, renamed: Mapping[str, str]) -> Task:
    task = source.table.tasks[index]
    return Task(
        name=_task_name(source, index),
        labels=tuple(renamed[label] for label in task.labels),
        prefix=source.prefix + task.prefix,
        prompts={renamed[label]: text for label, text in task.prompts.items()},
    )


def _merge_cases(sources: Sequence[Source], table: TaskTable) -> dict[str, list[str]]:
    """New identifiers in each image folder; each must be new and must lead to its own task."""
    cases: dict[str, list[str]] = {"imagesTr": [], "imagesUn": [], "imagesTs": []}
    offset = 0
    for source in sources:
        for place, of_place in cases.items():
            for case in source.images[place]:
                new = source.prefix + case
                _check_task_of(source, case, table, offset)
                of_place.append(new)
        offset += len(source.table)
    for places in _APART:
        twice = [case for case, n in Counter(case for p in places for case in cases[p]).items() if n > 1]
        if twice:
            raise DataError(
                f"The identifier '{twice[0]}' would be given twice in {' and '.join(places)}. Rename the "
                "case in one dataset; a scan is either labelled, unlabelled or test data."
            )
    return cases


def _check_task_of(source: Source, case: str, table: TaskTable, offset: int) -> None:
    """A longer prefix of another dataset may claim a case: Heart_ + MR_001 looks like one of Heart_MR."""
    before, after = source.table.known_task_of(case), table.known_task_of(source.prefix + case)
    if after != (before + offset if before >= 0 else -1):
        claimed = table.tasks[after].name if after >= 0 else "no task"
        raise DataError(
            f"Case '{case}' of {source.name} would be called '{source.prefix}{case}', which belongs to "
            f"{claimed}. Rename the case or one of the datasets."
        )


def _image_files(source: Source, ending: str) -> Iterator[tuple[Path, str]]:
    for place, cases in source.images.items():
        for case, files in cases.items():
            for channel, path in enumerate(files):
                yield path, f"{place}/{source.prefix}{case}_{channel:04d}{ending}"
            spacing = spacing_file(files[0], ending)
            if spacing is not None:
                yield spacing, f"{place}/{source.prefix}{case}.json"


def _label_files(sources: Sequence[Source], ending: str) -> Iterator[LabelFile]:
    value = 0
    for source in sources:
        values = {0: 0}
        for prompt in source.table.prompts:
            value += 1
            values[prompt.values[0]] = value
        for place, files in source.labels.items():
            for case, path in files.items():
                yield LabelFile(path, f"{place}/{source.prefix}{case}{ending}", values, source.reader)
