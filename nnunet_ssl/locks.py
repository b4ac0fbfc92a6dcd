"""Keep two processes from the same work, by a lock on a file that the system drops when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_ssl.errors import DataError

LOCK = "lock"
_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)  # the last two on Windows


class BusyError(DataError):
    """Another process is at it."""


class NoLocksError(DataError):
    """The file system cannot lock files."""


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[tuple[int, ...]]:
    """Keep other processes away from a folder; the system drops the lock of a process that dies.

    Args:
        folder: is made if need be, and gets a file ``lock``.
        wait: until another process is done, instead of raising ``BusyError``.

    Yields:
        The lock's file descriptor. A command that inherits it keeps the lock, should we die before it; on
        Windows nothing can be inherited.

    Raises:
        BusyError: another process has the lock.
        NoLocksError: the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        while not _take(file, folder):
            if not wait:
                raise BusyError(f"another process is at it ({file.name} is locked). Wait for it, or end it.")
            time.sleep(0.5)
        yield () if os.name == "nt" else (file.fileno(),)


def _take(file: Any, folder: Path) -> bool:
    """Whether we have the lock now; raises ``NoLocksError`` where there are no locks."""
    try:
        _lock(file)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise NoLocksError(
            "expected a file system that can lock files, which keeps two processes from the same work; "
            f"that of {folder} cannot ({error}). Name a folder on another one, or have locks turned on there."
        ) from error
    return True


def _lock(file: Any) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
