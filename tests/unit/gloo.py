"""Several processes on the CPU (gloo), for tests that compare them with one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn

RANKS = 2


def in_processes(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``function(rank)``, a function of a module, returns in each process of a group."""
    spawn(_worker, (function, folder), nprocs=RANKS)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(RANKS)]


@contextmanager
def group(folder: Path, rank: int = 0, size: int = 1) -> Iterator[None]:
    """Belong to a process group for a while."""
    if sys.platform == "linux":  # else gloo asks for the address of a host name that may have none
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _worker(rank: int, function: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    with group(folder, rank, RANKS):
        torch.save(function(rank), folder / f"rank{rank}.pt")
