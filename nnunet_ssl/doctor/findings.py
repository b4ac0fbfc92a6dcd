"""What the doctor says: findings with a severity, the cases, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from nnunet_ssl.doctor.facts import IMAGES_TS, CaseFacts
from nnunet_ssl.errors import ConfigError

CHECK_NAMES = (
    "file-names missing-channel orphan-label missing-label unreadable dataset-json no-cases channels "
    "dimension channel-geometry label-geometry label-values foreign-labels no-task blank-label sides "
    "two-parts stale-split absent-task absent-class duplicate look-alike torn-patient nan constant drift "
    "intensity orientation spacing field-of-view disk memory graphics-memory"
).split()


class Severity(IntEnum):
    """In the order of the table."""

    ERROR = 0  # training fails, or its results mean nothing
    WARNING = 1  # training runs; the result may be worse than need be
    NOTE = 2  # worth knowing

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        severity: whether training may start.
        check: short name of the check, for ``--accept``.
        found: what was found, one sentence without the cases.
        todo: what to do about it.
        cases: every case concerned, or pairs such as ``a = b``.
        details: one remark per case, as many as ``cases``, or none.
    """

    severity: Severity
    check: str
    found: str
    todo: str
    cases: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Every case with its detail."""
        details = self.details or ("",) * len(self.cases)
        return {
            "severity": str(self.severity),
            "check": self.check,
            "found": self.found,
            "todo": self.todo,
            "cases": [
                {"case": case, "detail": detail} if detail else {"case": case}
                for case, detail in zip(self.cases, details, strict=True)
            ],
        }


def of_cases(
    severity: Severity, check: str, found: str, todo: str, hits: Iterable[tuple[CaseFacts, str]]
) -> list[Finding]:
    """One finding for all cases of training and validation, another for those of imagesTs.

    No training fails over a test scan: there, an error is a warning.

    Args:
        severity: of the finding.
        check: name of the check.
        found: sentence; ``{n}`` becomes the number of cases.
        todo: what to do.
        hits: case and remark; none makes no finding.
    """
    hits = sorted(hits, key=lambda hit: (hit[0].folder, hit[0].case))
    findings = []
    for in_test in (False, True):
        mine = [(case, detail) for case, detail in hits if (case.folder == IMAGES_TS) == in_test]
        if mine:
            lowered = max(severity, Severity.WARNING) if in_test else severity
            names, details = tuple(case.title for case, _ in mine), tuple(detail for _, detail in mine)
            text = found.format(n=len(mine))
            findings.append(Finding(lowered, check, text, todo, names, details if any(details) else ()))
    return findings


def accept(findings: Iterable[Finding], checks: Sequence[str]) -> list[Finding]:
    """Errors of ``checks`` become warnings: the user has looked and says they are no errors here.

    Raises:
        ConfigError: there is no such check.
    """
    unknown = [check for check in checks if check not in CHECK_NAMES]
    if unknown:
        raise ConfigError(
            f"--accept: unknown {', '.join(unknown)}. The checks are: {', '.join(CHECK_NAMES)}."
        )
    return [
        replace(f, severity=max(f.severity, Severity.WARNING)) if f.check in checks else f for f in findings
    ]


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first; otherwise in the order in which they were made."""
    return sorted(findings, key=lambda finding: finding.severity)
