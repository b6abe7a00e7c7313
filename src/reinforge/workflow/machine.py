"""What this machine has: processors, memory, disk, devices."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory: what the machine (or the container) has, and what is free now."""

    total: int
    available: int


def peak_memory() -> int | None:
    """The most bytes of main memory that this process ever held; None where the system doesn't tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def memory() -> Memory:
    """Main memory, bounded by the container's limit where there is one."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    available = total
    if (facts := _read(Path("/proc/meminfo"))) is not None:
        named = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in facts.splitlines() if ":" in line}
        total, available = named.get("MemTotal", total), named.get("MemAvailable", available)
    limit, used = _read(Path("/sys/fs/cgroup/memory.max")), _read(Path("/sys/fs/cgroup/memory.current"))
    if limit is not None and limit.strip().isdecimal():
        total = min(total, int(limit))
        available = min(available, total - int(used or 0))
    return Memory(total, available)


def process_memory() -> int:
    """Bytes of main memory that this process holds now (at its peak, where the system tells only that)."""
    if (facts := _read(Path("/proc/self/statm"))) is not None:
        return int(facts.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Below this many weights a second thread costs more than it brings.
_SMALL = 1_000_000


def set_threads(wanted: int | None, model: nn.Module) -> None:
    """Give torch the threads wanted, or for a small model one, unless OMP_NUM_THREADS says otherwise."""
    if wanted is not None:
        torch.set_num_threads(wanted)
    elif "OMP_NUM_THREADS" not in os.environ and sum(p.numel() for p in model.parameters()) < _SMALL:
        torch.set_num_threads(1)


@contextmanager
def same_threads() -> Iterator[None]:
    """Leave torch the number of threads that it had."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def disk(folder: Path) -> int:
    """Free bytes where `folder` is, or will be."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def device_memory(device: torch.device) -> Memory:
    """The memory that tensors on `device` live in."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total, free)
    return memory()


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except OSError:
        return None
