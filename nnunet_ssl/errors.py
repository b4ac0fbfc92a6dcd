"""Errors that a user can cause. Each message says what was expected, what was found and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class NNUNetSSLError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(NNUNetSSLError):
    """An option or plans value is unknown, malformed or cannot be served."""


class DataError(NNUNetSSLError):
    """Scans, labels, splits or preprocessed files are missing, unreadable or contradict each other."""


class TaskError(NNUNetSSLError):
    """The task table of a dataset is inconsistent, or a task was asked for that it does not hold."""


def few(names: Iterable[object], most: int = 5) -> str:
    """The first names for a sentence, and how many more there are: ``a, b, c and 4 more``."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def listing(heading: str, problems: Sequence[str], most: int = 20) -> str:
    """A message that lists problems below each other, the first of them, and says how many more there are."""
    shown = list(problems[:most])
    more = [f"... and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join([heading, *(f"  {problem}" for problem in shown + more)])


def reason(error: object) -> str:
    """The last line of an error, where libraries say what is wrong; its type where it has no words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
