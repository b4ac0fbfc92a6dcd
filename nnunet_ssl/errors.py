"""Errors that a user can cause. Each message says what was expected, what was found and what to do."""


class NNUNetSSLError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(NNUNetSSLError):
    """An option or plans value is unknown, malformed or cannot be served."""


class DataError(NNUNetSSLError):
    """Scans, labels, splits or preprocessed files are missing, unreadable or contradict each other."""


class TaskError(NNUNetSSLError):
    """The task table of a dataset is inconsistent, or a task was asked for that it does not hold."""
