"""Put a report together: what is said where, as one HTML page and the same as Markdown."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from nnunet_ssl.benchmark.estimate import Budget, budget, clock
from nnunet_ssl.benchmark.plan import ALL, BASELINE, PSEUDO_LABELS, Run
from nnunet_ssl.conversion.dataset_json import read_json
from nnunet_ssl.evaluation import bootstrap
from nnunet_ssl.pseudo_labels import HIDDEN_DICE, PREFIX
from nnunet_ssl.report.answers import Answer, answers, headline, sentence, signed
from nnunet_ssl.report.forest import difference_plot, watching_plot
from nnunet_ssl.report.headroom import headroom_notes
from nnunet_ssl.report.overlays import overlay_picture
from nnunet_ssl.report.plots import efficiency_plot, training_plot
from nnunet_ssl.report.results import Results, short_name
from nnunet_ssl.report.tables import label_rows, method_rows
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
    line = headline(found, results)
    rows = [_answer_row(answer, results) for answer in found]
    efficiency = Picture(
        "efficiency.svg",
        "Mean Dice over the number of labelled cases, with 95 % intervals over the test cases; faint points "
        "are single seeds. These intervals are of each mean; the paired differences above are known better.",
        efficiency_plot(results).encode(),
    )
    difference = _picture(
        "differences.svg",
        "Paired differences of the mean Dice with 95 % intervals over the test cases; small points: single "
        "seeds. Green: gain, orange: loss, grey: not shown.",
        difference_plot(found, results),
    )
    watching = _picture(
        "pseudo_labels.svg",
        "Pseudo-labels in training, mean over seeds: the share of unlabelled patches called foreground "
        "(dashed: of the labelled cases), how sure and how consistent the method is.",
        watching_plot(results),
    )
    training = [
        Picture(
            f"training_{i}.svg",
            f"Loss terms of {short_name(method)} (mean over seeds, weights dotted)",
            plot.encode(),
        )
        for i, method in enumerate(results.methods)
        for plot in [training_plot(results, method)]
        if plot is not None
    ]
    cases = _case_pictures(results)
    context = {
        "settings": results.place.settings,
        "headline": line,
        "answers": rows,
        "headroom": notes,
        "state": _state(results),
        "failed": {run.name: text for run, text in results.failed.items()},
        "missing": [run.name for run in results.missing],
        "dice_rows": method_rows(results),
        "label_rows": label_rows(results),
        "difference": difference,
        "watching": watching,
        "hidden_labels": _watches_hidden_labels(results),
        "efficiency": efficiency,
        "training": training,
        "cases": cases,
        "facts": _facts(results),
        "folds": _folds(results),
        "tests": results.plan.tests,
        "exports": [f"export {k}={v}" for k, v in results.place.environment.items()],
        "commands": {run.name: done["commands"] for run, done in results.done.items()},
        "bootstrap": bootstrap.METHOD,
        "seeds": [s for s in results.plan.wish.seeds if any(key[2] == s for key in results.scores)],
        "pseudo_labels": PSEUDO_LABELS in results.methods,
    }
    pictures = [p for p in (difference, efficiency, watching, *training, *cases) if p is not None]
    summary = [line, *(f"  {row['text']}" for row in rows), *notes]
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


def _answer_row(answer: Answer, results: Results) -> dict[str, Any]:
    by_seed = ""
    if len(answer.seeds) < len(results.plan.wish.seeds):
        by_seed = f"seed {answer.seeds[0]} only" if len(answer.seeds) == 1 else ""
    if len(answer.seeds) > 1:
        each = ", ".join(f"{s}: {signed(d)}" for s, d in zip(answer.seeds, answer.by_seed, strict=True))
        by_seed = f"by seed {each}"
        if min(answer.by_seed) < 0 < max(answer.by_seed):
            by_seed += " (the sign depends on the seed)"
    return {"text": sentence(answer, results), "verdict": answer.verdict, "by_seed": by_seed}


def _picture(file: str, caption: str, svg: str | None) -> Picture | None:
    return None if svg is None else Picture(file, caption, svg.encode())


def _watches_hidden_labels(results: Results) -> bool:
    return any(PREFIX + HIDDEN_DICE in results.curves(run) for run in results.done)


def _case_pictures(results: Results) -> list[Picture]:
    pictures = []
    # The baseline with all labels stands beside those with fewer: it needs no picture of its own
    compared = any(results.seeds((m, ALL)) for m in results.methods if m != BASELINE)
    for labeled in results.labels:
        drawn = overlay_picture(results, labeled) if labeled != ALL or compared else None
        if drawn is not None:
            ranks = ", ".join(f"{rank} case {case}" for rank, case in drawn[1].items())
            caption = f"{results.name_of_labels(labeled)}: {ranks} (by the mean Dice of all methods)."
            pictures.append(Picture(f"cases_{labeled}.png", caption, drawn[0]))
    return pictures


def _state(results: Results) -> str:
    total = len(results.plan.runs())
    if len(results.done) == total:
        seeds = len(results.plan.wish.seeds)
        few = (
            " One seed: how much depends on the choice of the labelled cases is not known."
            if seeds == 1
            else ""
        )
        return f"All {total} runs are done.{few}"
    parts = [f"{len(results.done)} of {total} runs are done"]
    parts += [f"{len(results.failed)} failed"] if results.failed else []
    parts += [f"{len(results.missing)} are still to do"] if results.missing else []
    return ", ".join(parts) + ". What follows rests on those that are done."


def _facts(results: Results) -> list[tuple[str, str]]:
    """Name and value of what one must know to repeat this."""
    settings, plan = results.place.settings, results.plan
    epochs, updates = _budget(results)
    tests = " + ".join(str(len(part)) for part in plan.tests)
    how = f"{settings.folds} disjoint test sets" if settings.folds else f"--test {settings.test}"
    facts = [
        ("dataset", settings.dataset),
        ("configuration, plans", f"{settings.configuration}, {settings.plans}"),
        ("budget of every training", f"{epochs} epochs of {updates} updates, final checkpoint"),
        (
            "test cases",
            f"{tests} ({how}), in no training set, not among the unlabelled, not in the validation",
        ),
        ("scans in imagesUn", str(plan.bare)),
    ]
    if settings.group_regex:
        facts.append(("cases kept together by", settings.group_regex))
    seconds: dict[str, list[float]] = {}
    for run, done in results.done.items():
        seconds.setdefault(run.method, []).append(sum(done["seconds"].values()))
    times = [f"{short_name(m)} {clock(statistics.median(took))}" for m, took in seconds.items()]
    facts.append(("median time of a run", ", ".join(times)))
    kinds = {_key(done["versions"]) for done in results.done.values()}
    facts += [("versions", "; ".join(sorted(kinds)))]
    gpus = {gpu for run in results.done for gpu in [_gpu(results, run)] if gpu}
    facts.append(("GPU", ", ".join(sorted(gpus)) or "none"))
    if _watches_hidden_labels(results):
        facts.append(("hidden labels", "read for the curve of the pseudo-labels' Dice alone"))
    return facts


def _budget(results: Results) -> Budget:
    return budget(read_json(results.place.preprocessed / f"{results.place.settings.plans}.json"))


def _key(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _gpu(results: Results, run: Run) -> str | None:
    file = results.place.run(run) / "curves.json"
    return read_json(file).get("gpu") if file.is_file() else None


def _folds(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "fold": k,
            "labels": fold.labeled,
            "seed": fold.seed,
            "part": fold.part,
            "train": fold.train,
            "val": fold.val,
            "unlabeled": fold.unlabeled,
        }
        for k, fold in enumerate(results.plan.folds)
    ]
