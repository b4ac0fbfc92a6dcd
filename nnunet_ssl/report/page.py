"""Put a report together: what is said where, as one HTML page and the same as Markdown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from nnunet_ssl.benchmark.plan import ALL, BASELINE, PSEUDO_LABELS
from nnunet_ssl.evaluation import bootstrap
from nnunet_ssl.report.answers import Answer, answers, headline, sentence
from nnunet_ssl.report.forest import difference_plot, watching_plot
from nnunet_ssl.report.headroom import headroom_notes
from nnunet_ssl.report.overlays import overlays
from nnunet_ssl.report.plots import efficiency_plot, training_plot
from nnunet_ssl.report.repeat import command, facts, options_by_method
from nnunet_ssl.report.results import Results, short_name
from nnunet_ssl.report.tables import answer_tables, label_rows, method_rows
from nnunet_ssl.report.template import HTML, MARKDOWN

_MIME = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        file: its name.
        caption: what it shows.
        content: the file.
    """

    file: str
    caption: str
    content: bytes

    @property
    def uri(self) -> str:
        """The picture itself as an address, so that the page is one file."""
        kind = _MIME[Path(self.file).suffix]
        return f"data:{kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Page:
    """A report, ready to be written.

    Attributes:
        html: the page.
        markdown: the same.
        pictures: of both.
        summary: what the page begins with, line by line, for the terminal.
    """

    html: str
    markdown: str
    pictures: Sequence[Picture]
    summary: Sequence[str]


def make_page(results: Results) -> Page:
    """Everything a report says, from what is done so far."""
    found, notes = answers(results), headroom_notes(results)
    line, drawn = headline(found, results), _pictures(found, results)
    context = {
        "settings": results.place.settings,
        "headline": line,
        "answers": answer_tables(found, results),
        "headroom": notes,
        "state": _state(results),
        "failed": {run.name: text for run, text in results.failed.items()},
        "missing": [run.name for run in results.missing],
        "dice_rows": method_rows(results),
        "label_rows": label_rows(results),
        "hidden_labels": results.watches_hidden_labels,
        "warnings": {
            run.name: training["warnings"]
            for run, training in results.trainings.items()
            if training.get("warnings")
        },
        "facts": facts(results),
        "command": command(results.plan),
        "options": options_by_method(results),
        "folds": _folds(results),
        "tests": results.plan.tests,
        "exports": [f"export {k}={v}" for k, v in results.place.environment.items()],
        "commands": {run.name: done["commands"] for run, done in results.done.items()},
        "bootstrap": bootstrap.method(results.place.settings.group_regex is not None),
        "pseudo_labels": PSEUDO_LABELS in results.methods,
        **drawn,
    }
    single = (drawn[key] for key in ("difference", "efficiency", "watching"))
    pictures = [p for p in (*single, *drawn["training"], *drawn["cases"]) if p is not None]
    summary = [line, *(f"  {sentence(answer, results)}" for answer in found), *notes]
    return Page(_render(HTML, context, True), _render(MARKDOWN, context, False), pictures, summary)


def write_page(page: Page, folder: Path) -> tuple[Path, Path]:
    """Write ``report.html``, ``report.md`` and the pictures that the latter shows."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for picture in page.pictures:
        (pictures / picture.file).write_bytes(picture.content)
    html, markdown = folder / "report.html", folder / "report.md"
    html.write_text(page.html, encoding="utf-8")
    markdown.write_text(page.markdown, encoding="utf-8")
    return html, markdown


def _render(template: str, context: Mapping[str, Any], html: bool) -> str:
    environment = Environment(
        autoescape=html, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", r"\|").replace("\n", " ")
    environment.filters["name"] = short_name
    return environment.from_string(template).render(**context)


def _pictures(found: Sequence[Answer], results: Results) -> dict[str, Any]:
    """All pictures, by their names in the templates, and which cases have none."""
    cases, unseen = _case_pictures(results)
    return {
        "efficiency": _picture(
            "efficiency.svg",
            "Mean Dice over the number of labelled cases, with 95 % intervals over the test cases; faint "
            "points are single seeds. These intervals are of each mean; the paired differences above are "
            "known better.",
            efficiency_plot(results),
        ),
        "difference": _picture(
            "differences.svg",
            "Paired differences of the mean Dice with 95 % intervals over the test cases; small points: "
            "single seeds. Green: gain, orange: loss, grey: not shown.",
            difference_plot(found, results),
        ),
        "watching": _picture(
            "pseudo_labels.svg",
            "Pseudo-labels in training, mean over seeds: the share of unlabelled patches called foreground "
            "(dashed: of the labelled cases), how sure and how consistent the method is.",
            watching_plot(results),
        ),
        "training": [
            Picture(
                f"training_{i}.svg",
                f"Loss terms of {short_name(method)} (mean over seeds, weights dotted)",
                plot.encode(),
            )
            for i, method in enumerate(results.methods)
            for plot in [training_plot(results, method)]
            if plot is not None
        ],
        "cases": cases,
        "unseen": unseen,
    }


def _picture(file: str, caption: str, svg: str | None) -> Picture | None:
    return None if svg is None else Picture(file, caption, svg.encode())


def _case_pictures(results: Results) -> tuple[list[Picture], list[str]]:
    """Pictures of test cases, and what cannot be shown."""
    pictures, missing = [], []
    # The baseline with all labels stands beside those with fewer: it needs no picture of its own
    compared = any(results.seeds((m, ALL)) for m in results.methods if m != BASELINE)
    for labeled in results.labels:
        if labeled == ALL and not compared:
            continue
        drawn, name = overlays(results, labeled), results.name_of_labels(labeled)
        missing += [f"{name}, {text}" for text in drawn.missing]
        if drawn.png is not None:
            ranks = ", ".join(f"{rank} case {case}" for rank, case in drawn.shown.items())
            caption = f"{name}: {ranks} (by the mean Dice of all methods)."
            pictures.append(Picture(f"cases_{labeled}.png", caption, drawn.png))
    return pictures, missing


def _state(results: Results) -> str:
    total, seeds = len(results.plan.runs()), {key[2] for key in results.scores}
    few = " One seed: how much depends on the choice of the labelled cases is not known."
    tail = few if len(seeds) == 1 else ""
    if len(results.done) == total:
        return f"All {total} runs are done.{tail}"
    parts = [f"{len(results.done)} of {total} runs are done"]
    parts += [f"{len(results.failed)} failed"] if results.failed else []
    parts += [f"{len(results.missing)} still to do"] if results.missing else []
    return ", ".join(parts) + f". What follows rests on those that are done.{tail}"


def _folds(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "fold": k,
            "labels": results.name_of_labels(fold.labeled),
            "seed": fold.seed,
            "part": fold.part,
            "train": fold.train,
            "val": fold.val,
            "unlabeled": fold.unlabeled,
        }
        for k, fold in enumerate(results.plan.folds)
    ]
