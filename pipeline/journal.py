"""The journal of a run: `runs/<id>/plan.json`, what was meant to happen, and `events.jsonl`, what did.

Progress and heartbeats are for the eye and are not kept. A line is on the disk before anything that follows
from it: the end of work that was done is synced, so what a crash can tear is the last line alone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..artifacts.errors import CorruptError, StoreError
from ..artifacts.faults import fault, sync, time_ns
from ..artifacts.files import storage, unique_name, write_all
from .events import Event, Heartbeat, NodeFinished, Progress, RunFinished, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

PLAN = "plan.json"
EVENTS = "events.jsonl"
LOGS = "logs"
UNKEPT = (Progress, Heartbeat)
MILLISECOND_NS = 10**6


@dataclass(frozen=True)
class Entry:
    """One line of a journal: the event, and when it was written (ISO 8601, UTC)."""

    time: str
    event: Event


def utc_now() -> str:
    """The time as records state it: ISO 8601 in UTC, to the millisecond."""
    return _iso(time_ns() // MILLISECOND_NS)


def new_run_id(runs: Iterable[str] = ()) -> str:
    """A run's name: its start in UTC to the millisecond, so that names sort by time, and random digits.

    runs: the names there are. Where the clock stands before the newest, having been set back, the new name
    has the millisecond after that one instead: the run that was started last is the last one by name.
    """
    newest = max(map(_started_ms, runs), default=0)
    stamp = re.sub(r"[-:.]", "", _iso(max(time_ns() // MILLISECOND_NS, newest + 1)))
    return f"{stamp}-{secrets.token_hex(3)}"


class Journal:
    """Writes one run's journal; a context manager."""

    def __init__(self, directory: Path, descriptor: int) -> None:
        self.directory = directory
        self._descriptor = descriptor

    @staticmethod
    def create(directory: Path, plan: Mapping[str, object]) -> Journal:
        """A new journal in an existing run directory; plan: plain JSON.

        Raises StoreError when the directory has a journal already or cannot be written.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with storage(directory):
            try:
                descriptor = os.open(directory / EVENTS, flags, 0o644)
            except FileExistsError as error:
                raise StoreError("this run has a journal already", where=str(directory)) from error
            fault("journal.created")
            _write_plan(directory, json.dumps(plan, indent=2, ensure_ascii=False).encode())
            fault("journal.planned")
            (directory / LOGS).mkdir(exist_ok=True)
        return Journal(directory, descriptor)

    @property
    def run(self) -> str:
        """The run's id."""
        return self.directory.name

    def write(self, event: Event) -> None:
        """Appends ``event``, and waits for the disk where work ended; raises StoreError when it cannot."""
        if isinstance(event, UNKEPT):
            return
        length = os.fstat(self._descriptor).st_size
        with storage(self.directory):
            try:
                write_all(self._descriptor, encode(event, time=utc_now()))
            except OSError:
                # What is half a line now would damage the one after it; a disk that refuses both keeps it.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, length)
                raise
            fault("journal.written")
            if _ends_work(event):
                sync(self._descriptor)
                fault("journal.synced")

    def close(self) -> None:
        """Closes the file; closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(directory: Path) -> tuple[Entry, ...]:
    """The journal in a run directory, in order; a last line that a crash tore is passed over.

    Raises StoreError when there is no journal, and CorruptError when any other line is damaged.
    """
    path = directory / EVENTS
    with storage(path):
        lines = path.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            time = json.loads(line)["time"]
            entries.append(Entry(str(time), decode(line)))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise CorruptError("the journal of this run is damaged", where=f"{path}:{number}") from error
    return tuple(entries)


def read_plan(directory: Path) -> Mapping[str, object]:
    """The plan in a run directory; raises StoreError when it is missing, CorruptError when damaged."""
    path = directory / PLAN
    with storage(path):
        data = path.read_bytes()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CorruptError("the plan of this run is damaged", where=str(path)) from error
    if not isinstance(value, dict):
        raise CorruptError("the plan of this run is not an object", where=str(path))
    return value


def _write_plan(directory: Path, data: bytes) -> None:
    temporary = directory / f".{unique_name()}"
    try:
        with temporary.open("xb") as stream:  # not synced: a run that finds everything waits for no disk
            write_all(stream.fileno(), data)
        temporary.rename(directory / PLAN)
    finally:
        temporary.unlink(missing_ok=True)


def _iso(milliseconds: int) -> str:
    """A time since 1970 in ISO 8601; in whole numbers, which floats would round."""
    seconds, rest = divmod(milliseconds, 1000)
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{rest:03d}Z"


def _started_ms(run: str) -> int:
    """The time in a run's name, in milliseconds since 1970; 0 for a name of another form."""
    found = re.match(r"(\d{8}T\d{6})(\d{3})Z-", run)
    try:
        moment = dt.datetime.strptime(f"{found[1]}+0000", "%Y%m%dT%H%M%S%z") if found else None
    except ValueError:
        moment = None
    return int(moment.timestamp()) * 1000 + int(found[2]) if found and moment else 0


def _ends_work(event: Event) -> bool:
    """A hit did no work: losing its line loses nothing, and a cached run shall not wait for the disk."""
    return isinstance(event, RunFinished) or (isinstance(event, NodeFinished) and event.state != "hit")
