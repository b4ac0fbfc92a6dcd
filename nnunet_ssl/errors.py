"""Errors that a user can cause. Each message says what was expected, what was found and what to do."""

from __future__ import annotations

from collections.abc import Iterable


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
