"""What every benchmark says of the machine it ran on, and what a process and all it started cost there."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from ingot.pipeline import memory
from ingot.targets.host import probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LIBRARIES = ("torch", "transformers", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Usage:
    """What a process and all that it waited for spent. max_rss_bytes: of the largest, by the kernel.

    max_held_bytes: the most that they held at once and the kernel could not take back, looked up 50 times a
    second; no page of a mapped file is in it.  None where nobody looked.
    """

    seconds: float
    cpu_seconds: float
    max_rss_bytes: int
    max_held_bytes: int | None = None


def spend(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Runs a command to its end, its output unseen; ends with what it said to standard error if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert process.stderr is not None
    with _watched(process.pid) as held:
        errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}:\n{errors.decode()[-2000:]}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Usage(time.perf_counter() - started, cpu_seconds, usage.ru_maxrss * 1024, max(held))


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[list[int]]:
    """What a process holds, in bytes, as often as it is looked up while the block runs."""
    held, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            held.append(memory.held_bytes(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield held
    finally:
        is_over.set()
        thread.join()


@contextlib.contextmanager
def described() -> Iterator[None]:
    """Prints the command and the machine before the block, and how busy others kept it after."""
    host = probe()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(f"$ python {' '.join(sys.argv)}")
    now = dt.datetime.now(dt.UTC)
    print(f"{now:%Y-%m-%d %H:%M} UTC; {host.processor}, {host.cores} cores, {', '.join(host.isa)}")
    print(f"{platform.system()}, Python {platform.python_version()}, {versions}\n", flush=True)
    began, busy, own = time.perf_counter(), _busy_seconds(), _own_seconds()
    yield
    elapsed = (time.perf_counter() - began) * (os.cpu_count() or 1)
    others = _busy_seconds() - busy - (_own_seconds() - own)
    print(f"\nother processes took {max(0.0, others / elapsed):.0%} of the machine meanwhile")


@contextlib.contextmanager
def working_directory(given: Path | None) -> Iterator[Path]:
    """The directory that was given, made where there is none, or one that is gone after the block."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        yield given or Path(temporary)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system + times.children_user + times.children_system
