"""Runs jobs on this machine: one subprocess a job, in a session and process group of its own.

A shared pool of processes would lose every innocent job when one of them dies; here a death is that job's
alone. Two threads belong to a running job: the caller's, which waits for the process, and one that forwards
events and watches the memory bound.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from ..artifacts.errors import Interrupted, StageError
from ..artifacts.files import storage
from ..targets import host
from . import memory
from .environment import child_environment
from .events import Emit, decode
from .executor import Ended
from .ledger import Capacity
from .units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .job import Job

WATCH_SECONDS = 0.1
CLOSE_SECONDS = 10.0


class LocalExecutor:
    """One subprocess a job on this machine.

    memory_bytes: the bound on what all jobs together, and so each, may hold; by default what is free now,
    less a margin.  cores: by default all that this process may use.  environment: what workers may be given
    parts of, by default this process's.
    """

    def __init__(
        self,
        *,
        memory_bytes: int | None = None,
        cores: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._capacity = Capacity(cores or host.probe().cores, memory_bytes or memory.default_bound())
        self._environment = os.environ if environment is None else environment
        self._lock = threading.Lock()
        self._running: set[LocalProcess] = set()
        self._closed = False

    def capacity(self) -> Capacity:
        """The cores and memory that jobs may share."""
        return self._capacity

    def submit(self, job: Job, emit: Emit) -> LocalProcess:
        """Starts a job.

        Raises Interrupted once closed, StoreError when its log cannot be written, and StageError when the
        system gives no process.
        """
        environment = child_environment(self._environment, threads=job.cores)
        with self._lock:
            if self._closed:
                raise Interrupted("no more jobs are started: the run is ending")
            process = LocalProcess(job, emit, environment, self._running.discard)
            self._running.add(process)
        return process

    def close(self) -> None:
        """Kills every running job with all its processes, and returns when they are gone."""
        with self._lock:
            self._closed = True
            running = tuple(self._running)
        for process in running:
            process.kill()
        for process in running:
            process.gone.wait(CLOSE_SECONDS)


class LocalProcess:
    """A worker process, the pipe of its events and the watch over its memory."""

    def __init__(
        self, job: Job, emit: Emit, environment: Mapping[str, str], ended: Callable[[LocalProcess], None]
    ) -> None:
        self.gone = threading.Event()
        self._job = job
        self._emit = emit
        self._ended = ended
        self._over_bytes = 0
        self._held_bytes = 0
        self._exited = threading.Event()
        self._started = time.monotonic()
        with storage(job.log):
            self._log = job.log.open("ab", buffering=0)
        # -P: a file in the directory we happen to stand in must not pass for a library.
        command = [sys.executable, "-P", "-m", f"{__package__}.worker", str(job.directory)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=job.directory,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            what = f"no process could be started for {job.node}: {error.strerror}"
            raise StageError(
                what, where=sys.executable, fix="close other programs, then run again"
            ) from error
        self._watcher = threading.Thread(target=self._watch, name=f"watch {job.node}", daemon=True)
        self._watcher.start()

    def wait(self) -> Ended:
        """Returns when the process and every process of its group has ended."""
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - self._started
        self._exited.set()
        self.kill()
        self._watcher.join()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()
        self._ended(self)
        self.gone.set()
        return Ended(
            exit=self._process.returncode,
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            max_rss_bytes=self._held_bytes,
            error=self._over_bound() if self._over_bytes else None,
        )

    def kill(self) -> None:
        """Kills the worker's process group: the worker and whatever it started."""
        # The number cannot have become another group's: the kernel goes through all others first.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _watch(self) -> None:
        """Forwards events until the pipe ends, and kills the group when it holds more than its bound."""
        assert self._process.stdout is not None  # noqa: S101 - it was asked for above
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        rest = b""
        due = 0.0
        while True:
            if poll.poll(WATCH_SECONDS * 1000):
                data = os.read(descriptor, 1 << 16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._forward(line)
            elif self._exited.is_set():
                return  # a process that left the group still holds the pipe; nobody waits for it
            if time.monotonic() >= due:
                due = time.monotonic() + WATCH_SECONDS
                self._check_memory()

    def _forward(self, line: bytes) -> None:
        try:
            event = decode(line)
        except ValueError:
            # Only what prints before the worker's first line, such as a site hook, can reach this pipe.
            self._log.write(line + b"\n")
        else:
            self._emit(event)

    def _check_memory(self) -> None:
        held = memory.held_bytes(self._process.pid)
        self._held_bytes = max(self._held_bytes, held)
        if held > self._job.memory_bytes and not self._over_bytes:
            self._over_bytes = held
            self.kill()

    def _over_bound(self) -> StageError:
        return StageError(
            f"{self._job.node} held {show_bytes(self._over_bytes)} of memory, "
            f"above its bound of {show_bytes(self._job.memory_bytes)}, and was ended",
            where=f"log: {self._job.log}",
            fix="allow more with --memory, free memory on this machine, or use a smaller model or batch",
        )
