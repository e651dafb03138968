"""The plan: for each node of a graph its key and a decision (hit, run, pending, blocked) with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ..artifacts.manifest import Action, Artifact
from ..stages.base import Requirement
from .graph import Graph


class State(StrEnum):
    """What is to be done with a node.

    HIT: the store has its output.  RUN: its key is known and the store has nothing for it.  PENDING: an input
    is yet to be made, so the key is not known.  BLOCKED: it cannot run here, or something it takes cannot.
    """

    HIT = "hit"
    RUN = "run"
    PENDING = "pending"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Decision:
    """What is to be done with one node, and why.

    key and preimage: known for HIT and RUN.  artifact and action: what the store has, for HIT.
    expected: seconds, peak memory and output bytes as observed the last time a node of this name ran.
    """

    node: str
    state: State
    reason: str
    key: str | None = None
    preimage: Mapping[str, object] | None = None
    artifact: Artifact | None = None
    action: Action | None = None
    expected: Expected | None = None


@dataclass(frozen=True)
class Expected:
    """What a node cost the last time: seconds and bytes, from the newest action record of its name."""

    seconds: float | None
    max_rss_bytes: int | None
    output_bytes: int | None


@dataclass(frozen=True)
class Plan:
    """A decision for every node of ``graph``, in its order, and what is missing on this machine."""

    graph: Graph
    decisions: Mapping[str, Decision]
    missing: tuple[Requirement, ...] = ()

    def count(self, state: State) -> int:
        """How many nodes are in that state."""
        return sum(decision.state is state for decision in self.decisions.values())

    @property
    def is_cached(self) -> bool:
        """Whether nothing has to run."""
        return all(decision.state is State.HIT for decision in self.decisions.values())
