"""Past runs of a store, from what each left in its directory: plan, journal and report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts.errors import CorruptError, StoreError
from .events import NodeFinished, RunFinished
from .journal import EVENTS, PLAN, read, read_plan
from .units import MISSING

if TYPE_CHECKING:
    from ..artifacts.store import Store

REPORT = Path("report", "gate.json")
# How a run ended that its journal does not tell of.
UNFINISHED, DAMAGED = "unfinished", "damaged"
MADE = ("hit", "built")


@dataclass(frozen=True)
class PastNode:
    """How a node ended in a past run, and when (ISO 8601, UTC)."""

    event: NodeFinished
    time: str

    @property
    def key(self) -> str | None:
        """The key that led to its output in this run; None where it had none."""
        return self.event.key if self.event.state in MADE else None


@dataclass(frozen=True)
class PastRun:
    """A run, and how every node of it ended that came to an end, in that order.

    started: ISO 8601, UTC; empty for one that was killed before it had a journal.  state: done, failed,
    interrupted, unfinished (it was cut off, or is under way) or damaged.  seconds: from first to last node,
    None when it did not come to its end.
    """

    run: str
    directory: Path
    started: str = ""
    state: str = UNFINISHED
    seconds: float | None = None
    nodes: Mapping[str, PastNode] = field(default_factory=dict)

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """Its plan; empty where that is missing or damaged."""
        try:
            return read_plan(self.directory) if (self.directory / PLAN).exists() else {}
        except (CorruptError, StoreError):
            return {}

    @cached_property
    def expected(self) -> Mapping[str, Mapping[str, Any]]:
        """What was predicted of the nodes that had to run."""
        return {node["name"]: node["expected"] for node in self.plan.get("nodes", ()) if node.get("expected")}

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets it was to build."""
        return tuple(self.plan.get("targets", ()))

    @cached_property
    def verdict(self) -> str:
        """What its gates said; how it ended, where it has no report."""
        try:
            return str(json.loads((self.directory / REPORT).read_bytes())["verdict"])
        except (OSError, ValueError, KeyError, TypeError):
            return UNFINISHED if self.state == "done" else self.state

    def count(self, state: str) -> int:
        """How many nodes ended that way: hit, built, failed or blocked."""
        return sum(node.event.state == state for node in self.nodes.values())

    def node(self, name: str) -> PastNode | None:
        """How the node ended that went by this name, its own or another; None where there is none."""
        return self.nodes.get(name) or self.nodes.get(str(self.plan.get("aliases", {}).get(name)))


def show_time(time: str) -> str:
    """A moment of a record as people read it: `2026-11-21 09:12:33 UTC`; an en dash when there is none."""
    return f"{time[:10]} {time[11:19]} UTC" if time else MISSING


def past_runs(store: Store) -> Iterator[PastRun]:
    """The runs of the store, newest first, each read when its turn comes."""
    return (past_run(store, run) for run in store.runs())


def past_run(store: Store, run: str) -> PastRun:
    """What is left of one run; a damaged journal is a state, not an error."""
    directory = store.root / "runs" / run
    try:
        lines = read(directory) if (directory / EVENTS).exists() else ()
    except (CorruptError, StoreError):
        return PastRun(run, directory, state=DAMAGED)
    ends = [line.event for line in lines if isinstance(line.event, RunFinished)]
    return PastRun(
        run,
        directory,
        lines[0].time if lines else "",
        ends[-1].state if ends else UNFINISHED,
        ends[-1].seconds if ends else None,
        {
            line.event.node: PastNode(line.event, line.time)
            for line in lines
            if isinstance(line.event, NodeFinished)
        },
    )
