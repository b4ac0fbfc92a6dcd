"""Tasks and prompts: who annotated what in a dataset that joins several.

A *task* is what one source dataset annotates; a *prompt* is one foreground class of a task. A case is
annotated for its own task only: the labels of other tasks are unknown in it, not background. A dataset
without the block ``dataset.json["nnunet_ssl"]["tasks"]`` is one task that annotates every foreground label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunet_ssl.errors import TaskError

IGNORE = "ignore"  # nnU-Net's reserved label name
UNNAMED = "all"  # the task of a dataset without tasks and name
BLOCK = "nnunet_ssl"  # our key in dataset.json and in plans
EMBEDDING = "prompt_embedding"  # in our block of dataset.json

LabelValue = int | tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """What one source dataset annotates.

    Attributes:
        name: unique name, also how the task is asked for at prediction.
        labels: names of the foreground labels (keys of ``dataset.json["labels"]``).
        prefix: case identifiers of the task start with it; empty for a dataset of one task.
        prompts: optional sentence for each label.
    """

    name: str
    labels: tuple[str, ...]
    prefix: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)

    def sentence(self, label: str) -> str:
        """The sentence that asks for a label; made from the names where the task has none.

        >>> Task("USBreast", ("lesion",)).sentence("lesion")
        'Segment the lesion in the US Breast image.'
        """
        image = "image" if self.name == UNNAMED else f"{_words(self.name)} image"
        return self.prompts.get(label) or f"Segment the {_words(label)} in the {image}."


@dataclass(frozen=True)
class Embedding:
    """Shape and origin of the embedded sentences that lie beside dataset.json (``embed-prompts``).

    Attributes:
        tokens: tokens of a sentence, padding included.
        width: size of a token's vector.
        model: name of the text encoder, for people.
        digest: fingerprint of the text encoder's weights.
    """

    tokens: int
    width: int
    model: str
    digest: str


@dataclass(frozen=True)
class Prompt:
    """One foreground class of a task; its position in ``TaskTable.prompts`` is the network's prompt index."""

    label: str
    value: LabelValue
    task: int

    @property
    def values(self) -> tuple[int, ...]:
        """Values in a label map: one, or those of a region."""
        return _members(self.value)


class TaskTable:
    """The tasks of a dataset and the prompts they make.

    Prompts are in the order of nnU-Net's foreground channels: ascending label value, or the order of
    ``dataset.json["labels"]`` for region-based training. So prompt ``k`` belongs to output channel ``k``
    (regions) or ``k + 1`` (classes, channel 0 is background).

    ``embedding`` says what ``embed-prompts`` has stored with the dataset, ``None`` if nothing.

    Raises:
        TaskError: there is no label; one is unknown or belongs to no task or to two; two share a value; or
            names, prefixes or prompts are wrong.
    """

    def __init__(
        self,
        labels: Mapping[str, Any],
        tasks: Iterable[Task] | None = None,
        embedding: Embedding | None = None,
    ) -> None:
        foreground = _foreground(labels)
        self.tasks: tuple[Task, ...] = tuple(tasks or (Task(UNNAMED, tuple(foreground)),))
        if not foreground:
            raise TaskError("dataset.json declares no foreground label. Add one to its 'labels'.")
        self.has_regions = any(isinstance(v, tuple) and len(v) > 1 for v in foreground.values())
        owner = _label_owners(self.tasks, foreground)
        _check_names(self.tasks)
        _check_prompts(self.tasks)
        self.prompts = tuple(Prompt(name, value, owner[name]) for name, value in foreground.items())
        self.embedding = embedding

    @classmethod
    def from_dataset_json(cls, dataset_json: Mapping[str, Any]) -> TaskTable:
        """Read the table of a dataset; without our block, the dataset is one task named after itself."""
        block = dataset_json.get(BLOCK, {})
        embedding = _embedding_from_json(block[EMBEDDING]) if EMBEDDING in block else None
        labels, entries = dataset_json["labels"], block.get("tasks")
        if entries:
            return cls(labels, [_task_from_json(e) for e in entries], embedding)
        name = str(dataset_json.get("name") or UNNAMED)
        return cls(labels, [Task(name, tuple(_foreground(labels)))], embedding)

    @classmethod
    def from_plans(cls, plans: Mapping[str, Any]) -> TaskTable:
        """Read the table that a trainer wrote into the plans: all that prediction knows."""
        block = plans.get(BLOCK, {})
        if "labels" not in block:
            raise TaskError(
                f"These plans hold no task table (plans['{BLOCK}']['labels']). Expected the plans.json of a "
                "model folder written by a nnunet_ssl trainer."
            )
        tasks = [_task_from_json(e) for e in block.get("tasks", [])]
        return cls(block["labels"], tasks)

    def to_json(self) -> list[dict[str, Any]]:
        """Entries for ``dataset.json["nnunet_ssl"]["tasks"]``."""
        return [
            {"name": t.name, "labels": list(t.labels), "prompts": dict(t.prompts), "prefix": t.prefix}
            for t in self.tasks
        ]

    def __len__(self) -> int:
        return len(self.tasks)

    def task_of(self, case: str) -> int:
        """Index of the task that ``case`` belongs to; the longest matching prefix wins."""
        matches = [i for i, t in enumerate(self.tasks) if case.startswith(t.prefix)]
        if not matches:
            known = ", ".join(f"{t.prefix!r} ({t.name})" for t in self.tasks)
            raise TaskError(
                f"Case '{case}' belongs to no task: expected an identifier that starts with one of {known}. "
                f"Rename the case or correct dataset.json['{BLOCK}']['tasks']."
            )
        return max(matches, key=lambda i: len(self.tasks[i].prefix))

    def known_task_of(self, case: str) -> int:
        """Like ``task_of``, but -1 for a case with no task's prefix: an unlabelled scan of unknown task."""
        try:
            return self.task_of(case)
        except TaskError:
            return -1

    def prompts_of(self, task: int) -> list[int]:
        """Indices of the prompts that ``task`` annotates, in channel order."""
        return [k for k, prompt in enumerate(self.prompts) if prompt.task == task]

    def sentences(self) -> list[str]:
        """The sentence of every prompt."""
        return [self.tasks[p.task].sentence(p.label) for p in self.prompts]

    def resolve(self, name: str) -> list[int]:
        """Indices of the prompts meant by the name of a task (all its labels) or of a single label.

        Upper and lower case do not matter.

        Raises:
            TaskError: nothing is called ``name``; the message lists what is.
        """
        wanted = name.strip().lower()
        for i, task in enumerate(self.tasks):
            if task.name.lower() == wanted:
                return self.prompts_of(i)
        found = [k for k, prompt in enumerate(self.prompts) if prompt.label.lower() == wanted]
        if found:
            return found
        known = "; ".join(f"{t.name} (labels: {', '.join(t.labels)})" for t in self.tasks)
        raise TaskError(
            f"Unknown task '{name}'. Expected the name of a task or of a label. Known tasks: {known}."
        )


def _foreground(labels: Mapping[str, Any]) -> dict[str, LabelValue]:
    """Foreground labels in the order of nnU-Net's output channels."""
    values: dict[str, LabelValue] = {}
    for name, value in labels.items():
        if name == IGNORE:
            continue
        values[name] = _as_value(name, value)
    foreground = {n: v for n, v in values.items() if set(_members(v)) != {0}}
    if any(len(_members(v)) > 1 for v in foreground.values()):
        return foreground
    ordered = dict(sorted(foreground.items(), key=lambda item: _members(item[1])))
    _check_values(ordered)
    return ordered


def _as_value(name: str, value: Any) -> LabelValue:
    try:
        return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else int(value)
    except (TypeError, ValueError):
        raise TaskError(
            "dataset.json['labels']: expected names with numbers, such as \"liver\": 1, found "
            f"'{name}': {value!r}. If names and numbers are in the order of the first nnU-Net, swap them."
        ) from None


def _members(value: LabelValue) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _check_values(ordered: Mapping[str, LabelValue]) -> None:
    names = list(ordered)
    for one, other in zip(names, names[1:], strict=False):
        if _members(ordered[one]) == _members(ordered[other]):  # nnU-Net would make one channel for both
            raise TaskError(
                f"Labels '{one}' and '{other}' both have the value {_members(ordered[one])[0]}. "
                "Give each its own in dataset.json."
            )


def _label_owners(tasks: tuple[Task, ...], foreground: Mapping[str, LabelValue]) -> dict[str, int]:
    owner: dict[str, int] = {}
    for i, task in enumerate(tasks):
        for label in task.labels:
            if label not in foreground:
                known = ", ".join(foreground)
                raise TaskError(
                    f"Task '{task.name}' names label '{label}', which dataset.json lacks. Known: {known}."
                )
            if label in owner:
                raise TaskError(
                    f"Label '{label}' is named twice: by task '{tasks[owner[label]].name}' and by task "
                    f"'{task.name}'. Each label belongs to exactly one task."
                )
            owner[label] = i
    missing = [label for label in foreground if label not in owner]
    if missing:
        raise TaskError(
            f"No task annotates label(s) {', '.join(missing)}. Add them to a task in dataset.json."
        )
    return owner


def _check_names(tasks: tuple[Task, ...]) -> None:
    for attribute in ("name", "prefix"):
        seen: dict[str, Task] = {}
        for task in tasks:
            value = getattr(task, attribute).lower()
            if value in seen:
                raise TaskError(
                    f"Tasks '{seen[value].name}' and '{task.name}' share the {attribute} '{value}'. "
                    f"Give each a {attribute} of its own."
                )
            seen[value] = task


def _check_prompts(tasks: tuple[Task, ...]) -> None:
    for task in tasks:
        if not task.labels:
            raise TaskError(f"Task '{task.name}' names no label. Give it one or remove it.")
        unknown = [label for label in task.prompts if label not in task.labels]
        if unknown:
            raise TaskError(
                f"Task '{task.name}' has a prompt for {', '.join(unknown)}, which is not among its labels "
                f"({', '.join(task.labels)}). Correct dataset.json."
            )
        for label, sentence in task.prompts.items():
            if not isinstance(sentence, str) or not sentence.strip():
                raise TaskError(
                    f"Task '{task.name}', label '{label}': expected a sentence as prompt, got {sentence!r}. "
                    "Correct dataset.json, or leave it out to have one made from the names."
                )


def _words(name: str) -> str:
    """``USBreast`` and ``left_atrium`` as people write them."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_-]+", " ", name)
    return " ".join(parted.split())


def _embedding_from_json(entry: Mapping[str, Any]) -> Embedding:
    try:
        return Embedding(**entry)
    except TypeError:
        raise TaskError(
            f"dataset.json['{BLOCK}']['{EMBEDDING}'] is not what 'nnUNetv2_ssl embed-prompts' writes, but "
            f"{entry!r}. Run it again, or remove the entry."
        ) from None


def _task_from_json(entry: Mapping[str, Any]) -> Task:
    if "name" not in entry or "labels" not in entry:
        raise TaskError(f"A task needs 'name' and 'labels'; found only {sorted(entry)} in dataset.json.")
    if isinstance(entry["labels"], str):
        raise TaskError(
            f"Task '{entry['name']}': expected a list of labels, got the text '{entry['labels']}'."
        )
    return Task(
        name=str(entry["name"]),
        labels=tuple(entry["labels"]),
        prefix=str(entry.get("prefix", "")),
        prompts=dict(entry.get("prompts", {})),
    )
