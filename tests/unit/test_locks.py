"""Locks: one process at a time, and none where files cannot be locked."""

from __future__ import annotations

import errno
import os
from threading import Thread

import pytest

from nnunet_ssl import locks
from nnunet_ssl.locks import BusyError, NoLocksError, locked


def test_a_second_one_is_refused_or_waits(tmp_path):
    order = []

    def second():
        with locked(tmp_path / "new", wait=True):
            order.append("second")

    with locked(tmp_path / "new"):
        with pytest.raises(BusyError, match="another process is at it"), locked(tmp_path / "new"):
            raise AssertionError
        waiting = Thread(target=second)
        waiting.start()
        waiting.join(timeout=0.2)
        order.append("first")
    waiting.join(timeout=20)
    assert order == ["first", "second"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(file):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks, "_lock", refuse)
    with pytest.raises(NoLocksError, match="Name a folder on another one"), locked(tmp_path):
        raise AssertionError
