"""The table, the verdict and the JSON."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from nnunet_ssl.doctor.findings import Finding, Severity
from nnunet_ssl.doctor.study import Study
from nnunet_ssl.tables import format_table

_SHOWN = 3  # cases named in the table; all are in the JSON
_LEAST_WIDTH = 24


def format_findings(findings: Sequence[Finding], width: int) -> str:
    """The findings as a table no wider than ``width``, if that leaves room for its text."""
    fixed = max(map(len, ("severity", *(str(f.severity) for f in findings))))
    fixed += max(map(len, ("check", *(f.check for f in findings)))) + 6  # gaps between four columns
    column = max(_LEAST_WIDTH, (width - fixed) // 2)
    rows: list[tuple[str, str, str, str]] = []
    for finding in findings:
        left = textwrap.wrap(_with_cases(finding), column, break_on_hyphens=False)
        right = textwrap.wrap(finding.todo, column, break_on_hyphens=False)
        height = max(len(left), len(right))
        left, right = (lines + [""] * (height - len(lines)) for lines in (left, right))
        heads = [(str(finding.severity), finding.check), *[("", "")] * (height - 1)]
        rows += [(*head, a, b) for head, a, b in zip(heads, left, right, strict=True)]
    return format_table(rows, ["severity", "check", "what was found", "what to do"])


def verdict(findings: Iterable[Finding]) -> str:
    """One sentence: may training start?"""
    counts = Counter(finding.severity for finding in findings)
    if not counts:
        return "All fine: nothing found. Training may start."
    parts = [f"{counts[s]} {s}{'s' if counts[s] > 1 else ''}" for s in Severity if counts[s]]
    if counts[Severity.ERROR]:
        return f"{', '.join(parts)}. Training should not start before the errors are repaired."
    return f"{', '.join(parts)}. No errors: training may start."


def overview(study: Study, seconds: float) -> str:
    """One line: what was read."""
    counts = Counter(case.folder for case in study.cases)
    folds = [fold.name for fold in study.folds if fold.name]
    split = f"fold {', '.join(folds)}" if folds else "no split yet"
    parts = ", ".join(f"{counts[folder]} in {folder}" for folder in ("imagesTr", "imagesUn", "imagesTs"))
    return f"{study.name}: {parts}; {split}; read in {seconds:.1f} s."


def to_json(study: Study, findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    """Everything the table says, with every case, and a short record of each case."""
    return {
        "dataset": study.name,
        "folds": [fold.name for fold in study.folds if fold.name],
        "seconds": round(seconds, 1),
        "may_start": may_start(findings),
        "findings": [finding.to_json() for finding in findings],
        "cases": [
            {
                "folder": case.folder,
                "case": case.case,
                "shape": list(case.channels[0].geometry.shape) if case.channels else None,
                "spacing": list(case.channels[0].geometry.spacing) if case.channels else None,
                "orientation": case.channels[0].geometry.orientation if case.channels else None,
                "labels": {f"{v:g}": n for v, n in sorted(case.label.counts.items())} if case.label else None,
            }
            for case in study.cases
        ],
    }


def may_start(findings: Iterable[Finding]) -> bool:
    """Whether there is no error."""
    return all(finding.severity is not Severity.ERROR for finding in findings)


def _with_cases(finding: Finding) -> str:
    if not finding.cases:
        return finding.found
    details = finding.details or ("",) * len(finding.cases)
    shown = [f"{c} ({d})" if d else c for c, d in zip(finding.cases, details, strict=True)][:_SHOWN]
    more = len(finding.cases) - len(shown)
    return f"{finding.found} {'; '.join(shown)}{f'; and {more} more' if more else ''}"
