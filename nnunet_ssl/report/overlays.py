"""Pictures of test cases: the worst and the median one, under every method."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ssl.benchmark.plan import ALL, BASELINE
from nnunet_ssl.data.layout import list_images
from nnunet_ssl.errors import DataError
from nnunet_ssl.evaluation.bootstrap import label_means
from nnunet_ssl.evaluation.reading import find_reader, known_labels, read_image, read_labels
from nnunet_ssl.json_files import read_json
from nnunet_ssl.report.answers import points
from nnunet_ssl.report.results import Results, short_name
from nnunet_ssl.tasks import TaskTable

_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442")
_REFERENCE = "#FFFFFF"
_WIDTH = 2.3  # of a panel, in inches
_COLUMNS = 5  # panels beside each other
_DPI = 130
_MARGIN = 0.35  # of the object's size, around it
_SMALLEST = 24  # voxels that a crop measures at least


@dataclass(frozen=True)
class Case:
    """A test case and what its label maps hold.

    Attributes:
        name: its identifier.
        part: test set that it belongs to.
        description: content of dataset.json.
        table: tasks and prompts of the dataset.
    """

    name: str
    part: int
    description: Mapping[str, Any]
    table: TaskTable

    @property
    def task(self) -> int:
        """Index of its task."""
        return self.table.task_of(self.name)

    @property
    def prompts(self) -> list[int]:
        """Indices of the prompts that its task annotates."""
        return self.table.prompts_of(self.task)

    def masks(self, folder: Path) -> list[NDArray[np.bool_]]:
        """Mask of each of its prompts, from its label map in a folder.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        file = folder / f"{self.name}{self.description['file_ending']}"
        known, ignore = known_labels(self.description)
        problems: list[str] = []
        reader = find_reader(self.description, [file])
        labels, _ = read_labels(file, reader, known | ({ignore} if ignore is not None else set()), problems)
        if labels is None:
            raise DataError(problems[0])
        return [np.isin(labels, self.table.prompts[k].values) for k in self.prompts]


@dataclass(frozen=True)
class Panel:
    """What one method made of a case: its name, the Dice in words, and masks in the order of the labels."""

    title: str
    masks: Sequence[NDArray[np.bool_]]


@dataclass(frozen=True)
class Overlays:
    """A row for each chosen case and a column for each method.

    Attributes:
        png: the picture; ``None`` where no case can be shown.
        shown: rank of each case in it, and the case.
        missing: why each of the other chosen cases is not in it.
    """

    png: bytes | None
    shown: Mapping[str, str]
    missing: Sequence[str]


def chosen_cases(results: Results, labeled: str) -> dict[str, str]:
    """``worst`` and ``median`` to a case, by the mean Dice over all methods, so that none is flattered."""
    means: dict[str, list[float]] = {}
    for method in results.methods:
        seeds = results.seeds((method, labeled))
        if seeds:
            scores = results.mean(method, labeled, seeds)
            for case, dice in zip(scores.cases, label_means(scores.values["Dice"].T), strict=True):
                means.setdefault(case, []).append(float(dice))
    defined = {case: math.fsum(v) for case, v in means.items() if not any(map(math.isnan, v))}
    ordered = sorted(defined, key=lambda case: (defined[case], case))
    if not ordered:
        return {}
    worst, median = ordered[0], ordered[len(ordered) // 2]
    return {"worst": worst} | ({"median": median} if median != worst else {})


def overlays(results: Results, labeled: str) -> Overlays:
    """Worst and median case under every method, as the first seed predicts them."""
    rows, shown, missing = {}, {}, []
    for rank, case in chosen_cases(results, labeled).items():
        try:
            rows[f"{rank}: {case}"] = _row(results, labeled, case)
            shown[rank] = case
        except DataError as error:
            missing.append(f"{rank} case {case}: {error}")
    return Overlays(_draw(rows, _names(results)) if rows else None, shown, missing)


def _names(results: Results) -> list[str]:
    table = TaskTable.from_dataset_json(read_json(results.place.raw / "dataset.json"))
    return [prompt.label for prompt in table.prompts]


def _row(results: Results, labeled: str, name: str) -> tuple[NDArray[Any], float, list[Panel]]:
    """Slice of the scan, its aspect, and the panels: reference first."""
    place, description = results.place, read_json(results.place.raw / "dataset.json")
    part = next(i for i, cases in enumerate(results.plan.tests) if name in cases)
    case = Case(name, part, description, TaskTable.from_dataset_json(description))
    task = case.table.tasks[case.task].name if len(case.table) > 1 else None
    files = list_images(place.test_images(part, task), description["file_ending"]).get(name, [])
    if not files:
        raise DataError(f"The scan of {name} is no longer there.")
    image, spacing = read_image(files, description)
    panels = [Panel("reference", case.masks(place.test_labels(part)))]
    for method, labels in _columns(results, labeled):
        panel = _panel(results, method, labels, case, panels[0].masks)
        if panel is not None:
            panels.append(panel)
    return _cut(image, spacing, panels, case.prompts, len(case.table.prompts))


def _columns(results: Results, labeled: str) -> list[tuple[str, str]]:
    return list(dict.fromkeys([*((method, labeled) for method in results.methods), (BASELINE, ALL)]))


def _panel(
    results: Results, method: str, labeled: str, case: Case, reference: Sequence[NDArray[np.bool_]]
) -> Panel | None:
    seeds = results.seeds((method, labeled))
    if not seeds:
        return None
    key = (method, labeled, seeds[0])
    run = next(r for r in results.done if (r.method, r.labeled, r.seed, r.part) == (*key, case.part))
    scores = results.scores[key]
    dice = float(label_means(scores.values["Dice"].T)[scores.cases.index(case.name)])
    name = "supervised, all labels" if (method, labeled) == (BASELINE, ALL) else short_name(method)
    try:
        masks = case.masks(results.place.run(run) / "predictions")
    except DataError:  # the other methods are worth a look all the same
        return Panel(f"{name}: file missing or broken", [np.zeros_like(mask) for mask in reference])
    return Panel(f"{name}  {points(dice)}", masks)


def _cut(
    image: NDArray[Any], spacing: Sequence[float], panels: Sequence[Panel], colours: Sequence[int], count: int
) -> tuple[NDArray[Any], float, list[Panel]]:
    """The axial slice with most reference, cropped to what is segmented in it; masks by colour."""
    areas = np.sum([mask.sum((1, 2)) for mask in panels[0].masks], axis=0)
    if not areas.any():
        areas = np.sum([mask.sum((1, 2)) for panel in panels for mask in panel.masks], axis=0)
    index = int(areas.argmax()) if areas.any() else image.shape[1] // 2
    flat = [[mask[index] for mask in panel.masks] for panel in panels]
    box = _crop(np.any([mask for masks in flat for mask in masks], axis=0))
    shown = []
    for panel, masks in zip(panels, flat, strict=True):
        by_colour = [np.zeros_like(masks[0][box])] * count
        for colour, mask in zip(colours, masks, strict=True):
            by_colour[colour] = mask[box]
        shown.append(Panel(panel.title, by_colour))
    return image[0, index][box], spacing[-2] / spacing[-1], shown


def _crop(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """A box around a mask, with a margin; everything for an empty one."""
    if not mask.any():
        return tuple(slice(0, n) for n in mask.shape)
    box = []
    for axis, length in enumerate(mask.shape):
        inside = np.flatnonzero(mask.any(1 - axis))
        size = int(inside[-1] - inside[0] + 1)
        margin = max(round(_MARGIN * size), (_SMALLEST - size) // 2, 2)
        box.append(slice(max(0, int(inside[0]) - margin), min(length, int(inside[-1]) + 1 + margin)))
    return tuple(box)


def _draw(rows: Mapping[str, tuple[NDArray[Any], float, list[Panel]]], labels: Sequence[str]) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    count = max(len(panels) for _, _, panels in rows.values())
    lines = -(-count // _COLUMNS)
    columns = -(-count // lines)
    heights = [
        _WIDTH * image.shape[0] * aspect / image.shape[1]
        for image, aspect, _ in rows.values()
        for _ in range(lines)
    ]
    height = sum(heights) + 0.25 * len(heights) + 0.4  # titles and legend
    figure = Figure(figsize=(_WIDTH * columns, height), layout="constrained")
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for panel in axes.flat:
        panel.set_axis_off()
    for index, (title, (image, aspect, panels)) in enumerate(rows.items()):
        places = axes[index * lines : (index + 1) * lines].flat
        for place, panel in zip(places, panels, strict=False):
            _draw_panel(place, image, aspect, panel, panels[0].masks)
        axes[index * lines, 0].set_title(title, fontsize=8)
    handles = [Line2D([], [], color=c, lw=6, alpha=0.6) for c in _cycle(len(labels))]
    handles.append(Line2D([], [], color="#888888", lw=1.2))
    figure.legend(
        handles,
        [*labels, "outline: reference"],
        loc="outside lower center",
        ncols=6,
        frameon=False,
        fontsize=8,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _draw_panel(
    place: Any, image: NDArray[Any], aspect: float, panel: Panel, reference: Sequence[NDArray[np.bool_]]
) -> None:
    """One method's masks on the scan, the reference as outline."""
    from matplotlib.colors import to_rgba

    low, high = np.percentile(image, (1, 99))
    place.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
    place.set_autoscale_on(False)
    place.set_title(panel.title, fontsize=8)
    for colour, mask, true in zip(_cycle(len(reference)), panel.masks, reference, strict=True):
        if mask.any():
            tint = np.zeros((*mask.shape, 4))
            tint[mask] = to_rgba(colour, 0.45)
            place.imshow(tint, aspect=aspect, interpolation="nearest")
        _outline(place, true)


def _outline(panel: Any, mask: NDArray[np.bool_]) -> None:
    """Edge of the reference; nothing for an empty one."""
    if mask.any():
        padded = np.pad(mask.astype(float), 1)  # closes outlines at the border of the picture
        ticks = [np.arange(-1, n + 1) for n in mask.shape]
        panel.contour(ticks[1], ticks[0], padded, levels=[0.5], linewidths=1.2, colors=_REFERENCE)


def _cycle(count: int) -> list[str]:
    return [_COLOURS[k % len(_COLOURS)] for k in range(count)]
