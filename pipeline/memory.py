"""How much memory there is and how much a worker holds, as the bound on stages counts it.

What counts is what the kernel cannot take back: anonymous and shared memory. The pages of a memory-mapped
checkpoint are the kernel's to drop, so a stage may map a file larger than its bound.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

KIB = 1 << 10
LINUX: bool = sys.platform.startswith("linux")
# What the driver, the page cache that makes reading fast, and everything else on the machine keep.
MARGIN = 0.1
_PROC = Path("/proc")
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def default_bound() -> int:
    """What stages may hold when nobody says: the memory that is free now, less a margin, in bytes."""
    return int(available_bytes() * (1 - MARGIN))


def available_bytes() -> int:
    """The bytes that can be had without swapping, by the machine and by this process's control group."""
    free = (_bytes(_read(_PROC / "meminfo"), "MemAvailable") if LINUX else 0) or _available_elsewhere()
    for limit_file, use_file in _CGROUPS:
        limit = _read(Path(limit_file)).strip()
        if limit.isdigit():
            free = min(free, max(0, int(limit) - int(_read(Path(use_file)).strip() or 0)))
    return free


def held_bytes(pid: int) -> int:
    """What a process and its descendants hold that the kernel cannot take back; 0 when it is gone."""
    if not LINUX:
        return _held_elsewhere(pid)
    total = 0
    pending = [pid]
    while pending:
        current = pending.pop()
        total += own_bytes(current)
        tasks = _PROC / str(current) / "task"
        for task in _entries(tasks):
            pending.extend(int(child) for child in _read(tasks / task / "children").split())
    return total


def own_bytes(pid: int) -> int:
    """Anonymous and shared memory of one process (Linux), without its descendants; 0 when it is gone."""
    return sum(_status(pid, "RssAnon", "RssShmem"))


def peak_bytes() -> int:
    """The most memory this process, or a child it has waited for, had resident at once, mapped files too.

    Not ru_maxrss for this process itself: on Linux it starts at what the parent held when it started us.
    """
    children = recorded_peak(resource.getrusage(resource.RUSAGE_CHILDREN))
    if LINUX:
        return max(children, *_status(os.getpid(), "VmHWM"))
    return max(children, recorded_peak(resource.getrusage(resource.RUSAGE_SELF)))


def recorded_peak(usage: resource.struct_rusage) -> int:
    """The kernel's own record of a peak in bytes, which on Linux is at least the parent's when it started."""
    return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * KIB


def resident_bytes() -> int:
    """What this process has resident now, mapped files included."""
    if LINUX:
        return sum(_status(os.getpid(), "VmRSS"))
    return _held_elsewhere(os.getpid())


def _status(pid: int, *names: str) -> tuple[int, ...]:
    text = _read(_PROC / str(pid) / "status")
    return tuple(_bytes(text, name) for name in names)


def _bytes(text: str, name: str) -> int:
    """The number of a line such as `VmRSS:  12 kB`, in bytes; 0 without that line."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match.group(1)) * KIB if match else 0


def _available_elsewhere() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _held_elsewhere(pid: int) -> int:
    import psutil

    try:
        process = psutil.Process(pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def _entries(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names are what is wanted, ten times a second
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read(path: Path) -> str:
    """The text of a file of the kernel; empty when it, or the process it describes, is gone."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
