"""What happens during a run, as frozen values; each crosses pipes and journals as one line of JSON."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class RunStarted:
    """A run began to execute; nodes: every node of its graph, in order."""

    run: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class NodeStarted:
    """A node's worker was started with that many cores and that bound on its memory; log: its log file."""

    node: str
    stage: str
    key: str
    cores: int
    memory_bytes: int
    log: str


@dataclass(frozen=True)
class Progress:
    """How far a running stage is: ``done`` of ``total`` of ``what``; total 0 when it is not known."""

    node: str
    done: int
    total: int
    what: str


@dataclass(frozen=True)
class Heartbeat:
    """A worker is alive and holds that much memory; once a second."""

    node: str
    rss_bytes: int


@dataclass(frozen=True)
class Note:
    """A remedy or fallback of a stage that the report must state."""

    node: str
    text: str


@dataclass(frozen=True)
class NodeFinished:
    """A node came to an end: hit, built, failed or blocked, and why.

    artifact: the digest of its output.  seconds, cpu_seconds, max_rss_bytes: spent by this run, so zero for a
    hit.  error: as errors.to_json writes it.
    """

    node: str
    state: str
    reason: str
    key: str | None = None
    artifact: str | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    max_rss_bytes: int = 0
    error: Mapping[str, str | None] | None = None


@dataclass(frozen=True)
class RunFinished:
    """A run executed what it could; state: done, failed (a node did) or interrupted."""

    run: str
    state: str
    seconds: float


Event = RunStarted | NodeStarted | Progress | Heartbeat | Note | NodeFinished | RunFinished
Emit = Callable[[Event], None]


def name_of(kind: type) -> str:
    """An event class's name on the wire: ``NodeStarted`` is `node_started`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


KINDS: Mapping[str, type] = {name_of(kind): kind for kind in typing.get_args(Event)}


def encode(event: Event, **extra: object) -> bytes:
    """The event as one line of JSON, ended by a newline; extra: members that :func:`decode` passes over."""
    value = {"event": name_of(type(event)), **extra, **dataclasses.asdict(event)}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Event:
    """The inverse of :func:`encode`; raises ValueError for anything else."""
    value = json.loads(line)
    if not isinstance(value, dict) or value.get("event") not in KINDS:
        raise ValueError(f"not an event: {line[:80]!r}")
    kind = KINDS[value["event"]]
    known = {field.name: value[field.name] for field in dataclasses.fields(kind) if field.name in value}
    if isinstance(known.get("nodes"), list):
        known["nodes"] = tuple(known["nodes"])
    try:
        event: Event = kind(**known)
    except TypeError as error:
        raise ValueError(f"not a whole event: {line[:80]!r}") from error
    return event
