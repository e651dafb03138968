"""What became of a graph that was executed: one result a node, and the run as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..artifacts.errors import IngotError
from ..artifacts.manifest import Action, Artifact


class Ending(StrEnum):
    """How a node ended.

    HIT: the store had its output.  BUILT: this run made it.  FAILED: it was tried.  BLOCKED: it was not, for
    something it takes failed or this machine lacks something.
    """

    HIT = "hit"
    BUILT = "built"
    FAILED = "failed"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class NodeResult:
    """How one node ended, and why.

    artifact and action: its output and the record of how it was made, for HIT and BUILT; ``action.observed``
    holds what it cost when it was made.  seconds, cpu_seconds, max_rss_bytes: what this run spent on it, so
    zero for a hit.  notes: what the report must state, also of a hit.  log: where what it printed lies.
    """

    node: str
    state: Ending
    reason: str
    key: str | None = None
    artifact: Artifact | None = None
    action: Action | None = None
    error: IngotError | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    max_rss_bytes: int = 0
    notes: tuple[str, ...] = ()
    log: Path | None = None

    @property
    def has_output(self) -> bool:
        """Whether nodes that take its output can go on."""
        return self.artifact is not None


@dataclass(frozen=True)
class Outcome:
    """Every node's result in graph order, under the id of the run; seconds: from first to last."""

    run: str
    results: Mapping[str, NodeResult]
    seconds: float

    def count(self, state: Ending) -> int:
        """How many nodes ended that way."""
        return sum(result.state is state for result in self.results.values())

    @property
    def failures(self) -> tuple[NodeResult, ...]:
        """The results of the nodes that were tried and failed, in graph order."""
        return tuple(result for result in self.results.values() if result.state is Ending.FAILED)
