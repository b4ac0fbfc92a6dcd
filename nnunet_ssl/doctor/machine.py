"""What the machine has: memory, disk, graphics memory. ``None`` where the system does not say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Containers and batch systems grant less than the machine has: version 2 and version 1 of control groups.
_CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory() -> int | None:
    """Bytes of main memory that a program can still get, within the limit of a container."""
    free = [value for value in (_system_memory(), _cgroup_memory()) if value is not None]
    return min(free, default=None)


def free_disk(folder: Path) -> int | None:
    """Free bytes on the disk of a folder, or of the nearest folder above it that exists."""
    for candidate in (folder, *folder.absolute().parents):
        if candidate.is_dir():
            return shutil.disk_usage(candidate).free
    return None


def gpu_memory() -> int | None:
    """Bytes of the largest CUDA device; ``None`` without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    return max(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def _system_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:  # other Unixes: what is installed
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _cgroup_memory(folders: tuple[Path, ...] = _CGROUPS) -> int | None:
    for folder in folders:
        for limit_file, usage_file, cache in _CGROUP_FILES:
            try:
                limit = (folder / limit_file).read_text().strip()
                usage = int((folder / usage_file).read_text())
                statistics = (folder / "memory.stat").read_text().split()
            except OSError:
                continue
            if limit == "max":
                return None
            # Cached files count as used, but give way
            cached = int(statistics[statistics.index(cache) + 1]) if cache in statistics else 0
            return max(0, int(limit) - usage + cached)
    return None
