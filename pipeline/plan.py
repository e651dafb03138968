"""The plan: for each node of a graph its key and a decision (hit, run, pending, blocked) with the reason.

Planning looks and changes nothing. While a run is on, the same :meth:`Planner.decide` is asked again for
every node whose inputs have just become known: an input that came out as before stops the rebuild below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType

from ..artifacts import schema
from ..artifacts.manifest import Action, Artifact
from ..artifacts.store import Store
from ..stages.base import Requirement
from ..targets.host import Host, probe
from .explain import History, KeyDiff, changes
from .graph import Graph, Leaf, Node
from .keys import data_digests, key_of, preimage
from .requirements import of_leaf, of_machine, of_node, raise_missing

PLAN_SCHEMA = "ingot/plan/v1"


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
class Expected:
    """What a node cost the last time: seconds and bytes, from the newest action record of its name."""

    seconds: float | None
    max_rss_bytes: int | None
    output_bytes: int | None


@dataclass(frozen=True)
class Decision:
    """What is to be done with one node, and why.

    key: known for HIT and RUN.  preimage: what the key is of; for PENDING, with None for the inputs that are
    not known.  artifact and action: what the store has, for HIT.  expected: for what is to run.
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

    @property
    def expected_seconds(self) -> float | None:
        """What all nodes that have to run took the last time, together; None when one of them never ran."""
        waiting = [d for d in self.decisions.values() if d.state in (State.RUN, State.PENDING)]
        seconds = [d.expected.seconds if d.expected else None for d in waiting]
        known = [each for each in seconds if each is not None]
        return sum(known) if len(known) == len(seconds) else None

    def require(self) -> None:
        """Raises RequirementError when something is missing, naming all of it with the commands to run."""
        raise_missing(self.missing)


@dataclass(frozen=True)
class Planner:
    """Decides what is to be done with nodes, against one store on one machine."""

    store: Store
    host: Host = field(default_factory=probe)

    @cached_property
    def history(self) -> History:
        """What was built before; read when something has to run, never for a run that is all hits."""
        return History(self.store)

    def plan(self, graph: Graph) -> Plan:
        """A decision for every node, and everything that this machine lacks for those that have to run.

        Raises DataError for a data file that cannot be read.
        """
        decisions: dict[str, Decision] = {}
        missing: list[Requirement] = []
        for node in graph.nodes.values():
            decision = self._decide(node, {name: decisions[source] for name, source in node.inputs.items()})
            if decision.state in (State.RUN, State.PENDING) and (lacking := of_node(node)):
                missing += lacking
                reason = "this machine lacks " + ", ".join(each.name for each in lacking)
                decision = replace(decision, state=State.BLOCKED, reason=reason)
            decisions[node.name] = decision
        waiting = [name for name, each in decisions.items() if each.state in (State.RUN, State.PENDING)]
        for leaf in graph.targets.values():
            if leaf.quality in waiting or leaf.cost in waiting:
                missing += of_leaf(leaf)
        missing += of_machine(graph, [graph.nodes[name] for name in waiting], self.store.root, self.host)
        return Plan(graph, MappingProxyType(decisions), tuple(dict.fromkeys(missing)))

    def decide(self, node: Node, inputs: Mapping[str, str]) -> Decision:
        """HIT or RUN for a node whose inputs are all known: input name → artifact digest."""
        made_of = preimage(node, inputs, data_digests(node, self.store), self.host)
        key = key_of(made_of)
        found = self.store.lookup(key)
        if found is not None:
            action, artifact = found
            return Decision(node.name, State.HIT, "in the store", key, made_of, artifact, action)
        if self.store.read_action(key) is not None:
            reason = "built before, but its output is gone from the store"
        else:
            reason = str(self._diff(node, made_of))
        return Decision(node.name, State.RUN, reason, key, made_of, expected=self._expected(node))

    def _decide(self, node: Node, sources: Mapping[str, Decision]) -> Decision:
        """The decision for a node, from those for what it takes, by input name."""
        for name, source in sources.items():
            if source.state is State.BLOCKED:
                return Decision(node.name, State.BLOCKED, f"takes {source.node} as {name}, which is blocked")
        inputs = {
            name: source.artifact.digest if source.artifact else None for name, source in sources.items()
        }
        known = {name: digest for name, digest in inputs.items() if digest is not None}
        if len(known) == len(inputs):
            return self.decide(node, known)
        waits = dict.fromkeys(source.node for source in sources.values() if source.artifact is None)
        made_of = preimage(node, inputs, data_digests(node, self.store), self.host)
        reason = f"waits for {' and '.join(waits)}"
        return Decision(node.name, State.PENDING, reason, None, made_of, expected=self._expected(node))

    def _diff(self, node: Node, made_of: Mapping[str, object]) -> KeyDiff:
        old = self.history.last(node.name)
        return KeyDiff(node.name, old, changes(old.preimage, made_of) if old else ())

    def _expected(self, node: Node) -> Expected | None:
        last = self.history.last(node.name)
        if last is None:
            return None
        seconds, peak, size = (
            last.observed.get(name) for name in ("seconds", "max_rss_bytes", "output_bytes")
        )
        return Expected(
            float(seconds) if isinstance(seconds, int | float) else None,
            peak if isinstance(peak, int) else None,
            size if isinstance(size, int) else None,
        )


def make_plan(graph: Graph, store: Store, host: Host | None = None) -> Plan:
    """The plan of ``graph`` against ``store``, on this machine when ``host`` is None."""
    return (Planner(store, host) if host else Planner(store)).plan(graph)


def to_json(plan: Plan) -> dict[str, object]:
    """The plan as plain values, for `plan.json` and `ingot plan --json`: nodes in order, targets, notes."""
    return {
        "schema": PLAN_SCHEMA,
        "nodes": [_node_json(plan.graph.nodes[name], decision) for name, decision in plan.decisions.items()],
        "targets": {name: _leaf_json(leaf) for name, leaf in plan.graph.targets.items()},
        "aliases": dict(plan.graph.aliases),
        "facts": schema.plain(plan.graph.facts),
        "notes": list(plan.graph.notes),
        "missing": [{"name": each.name, "fix": each.fix} for each in plan.missing],
    }


def _node_json(node: Node, decision: Decision) -> dict[str, object]:
    return {
        "name": node.name,
        "stage": node.stage,
        "params": schema.to_plain(node.params),
        "origins": dict(node.origins),
        "inputs": dict(node.inputs),
        "target": node.target,
        "seed": node.seed,
        "why": node.reason,
        "state": str(decision.state),
        "reason": decision.reason,
        "key": decision.key,
        "artifact": decision.artifact.digest if decision.artifact else None,
    }


def _leaf_json(leaf: Leaf) -> dict[str, object]:
    gates = [dataclasses.asdict(gate) for gate in leaf.gates]
    return {
        "profile": leaf.profile,
        "artifact": leaf.artifact,
        "quality": leaf.quality,
        "cost": leaf.cost,
        "gates": gates,
        "notes": list(leaf.notes),
    }
