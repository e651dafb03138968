"""The plan: for each node of a graph its key and a decision (hit, run, pending, blocked) with the reason.

Planning looks and changes nothing. While a run is on, the same :meth:`Planner.decide` is asked again for
every node whose inputs have just become known: an input that came out as before stops the rebuild below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..artifacts import schema
from ..artifacts.manifest import Action, Artifact
from ..artifacts.store import Store
from ..stages import base
from ..stages.base import Requirement
from ..targets.host import Host, probe
from .graph import Graph, Leaf, Node
from .key_changes import changes, told
from .keys import data_digests, key_of, preimage
from .makespan import makespan
from .memory import default_bound
from .predict import Prediction, Predictor
from .preflight import check_inputs
from .requirements import of_leaf, of_node, of_room, raise_missing

if TYPE_CHECKING:
    from .history import History

PLAN_SCHEMA = "ingot/plan/v2"


class State(StrEnum):
    """What is to be done with a node.

    HIT: the store has its output.  RUN: its key is known and the store has nothing for it.  PENDING: an input
    is yet to be made, so the key is not known.  BLOCKED: it cannot run here, or something it takes cannot.
    """

    HIT = "hit"
    RUN = "run"
    PENDING = "pending"
    BLOCKED = "blocked"


WAITING = (State.RUN, State.PENDING)


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
    expected: Prediction | None = None


@dataclass(frozen=True)
class Plan:
    """A decision for every node of ``graph``, in its order, and what is missing on this machine.

    absent: devices, without which some targets are built and end `unverified`.  short: memory and disk space
    that will not do, as far as can be predicted.  cores: that nodes may share.
    """

    graph: Graph
    decisions: Mapping[str, Decision]
    missing: tuple[Requirement, ...] = ()
    short: tuple[Requirement, ...] = ()
    absent: tuple[Requirement, ...] = ()
    cores: int = 1

    def count(self, state: State) -> int:
        """How many nodes are in that state."""
        return sum(decision.state is state for decision in self.decisions.values())

    @property
    def counts(self) -> str:
        """How many nodes are in which state, in words."""
        return ", ".join(f"{self.count(state)} {state}" for state in State if self.count(state))

    @property
    def is_cached(self) -> bool:
        """Whether nothing has to run."""
        return all(decision.state is State.HIT for decision in self.decisions.values())

    @property
    def unverified(self) -> Mapping[str, str]:
        """The targets that cannot be finished on this machine, and why."""
        found = {}
        for name, leaf in self.graph.targets.items():
            branch = (self.decisions[node] for node in self.graph.ancestors(*leaf.nodes))
            reasons = [each.reason for each in branch if each.state is State.BLOCKED]
            if reasons and not self.missing:
                found[name] = reasons[0]
        return found

    @property
    def expected(self) -> Mapping[str, Prediction]:
        """What each node that has to run will take."""
        return {name: each.expected for name, each in self.decisions.items() if each.expected is not None}

    @property
    def expected_seconds(self) -> float:
        """What the run will take, with nodes beside one another where cores allow; 0 when all is cached."""
        seconds = {name: each.seconds for name, each in self.expected.items()}
        inputs = {name: tuple(self.graph.nodes[name].inputs.values()) for name in seconds}
        alone = {name for name in seconds if base.get(self.graph.nodes[name].stage).exclusive}
        return makespan(seconds, inputs, alone, self.cores)

    @property
    def output_bytes(self) -> int:
        """What the store will grow by."""
        return sum(each.output_bytes for each in self.expected.values())

    def _repr_svg_(self) -> str:
        """How a notebook shows a plan: its graph."""
        from .report.graph_file import render_graph

        return render_graph(self)

    def require(self) -> None:
        """Raises RequirementError when something is missing or short, naming all of it with what to do."""
        raise_missing((*self.missing, *self.short))

    def forced(self) -> Plan:
        """The plan for somebody who knows better: what is short is a note of the report, not an error."""
        notes = (f"run with --force although it was short of {each.name}" for each in self.short)
        graph = replace(self.graph, notes=(*self.graph.notes, *notes))
        return replace(self, graph=graph, short=())


@dataclass(frozen=True)
class Planner:
    """Decides what is to be done with nodes, against one store on one machine.

    memory_bytes, cores: what nodes may share; what is free on the host, and all of its cores, when None.
    """

    store: Store
    host: Host = field(default_factory=probe)
    memory_bytes: int | None = None
    cores: int | None = None

    @cached_property
    def history(self) -> History:
        """What was built before; imported and read when something has to run, never for what is all hits."""
        from .history import History

        return History(self.store)

    def plan(self, graph: Graph) -> Plan:
        """A decision for every node, and everything that this machine lacks for those that have to run.

        Raises DataError for a data file that cannot be read, and InputError for models that a stage which
        has to run cannot take.
        """
        decisions: dict[str, Decision] = {}
        missing: list[Requirement] = []
        absent: list[Requirement] = []
        for node in graph.nodes.values():
            decision = self._decide(node, {name: decisions[source] for name, source in node.inputs.items()})
            if decision.state in WAITING and (lacking := of_node(node)):
                missing += (each for each in lacking if not each.is_device)
                absent += (each for each in lacking if each.is_device)
                reason = "this machine lacks " + ", ".join(each.name for each in lacking)
                decision = replace(decision, state=State.BLOCKED, reason=reason)
            decisions[node.name] = decision
        waiting = [name for name, each in decisions.items() if each.state in WAITING]
        made = {name: each.artifact for name, each in decisions.items()}
        for name in waiting:
            check_inputs(graph.nodes[name], graph, made)
        for leaf in graph.targets.values():
            if leaf.quality in waiting or leaf.cost in waiting:
                missing += of_leaf(leaf)
        found = Plan(
            graph,
            MappingProxyType(decisions),
            tuple(dict.fromkeys(missing)),
            absent=tuple(dict.fromkeys(absent)),
            cores=self._cores,
        )
        return self._predicted(found) if waiting else found

    def following(self, plan: Plan) -> Callable[[Node, Mapping[str, str]], Decision]:
        """:meth:`decide` for an execution of ``plan``: with what was predicted there, and what this machine
        lacks the device for left out.
        """

        def decide(node: Node, inputs: Mapping[str, str]) -> Decision:
            known, found = plan.decisions[node.name], self.decide(node, inputs)
            if known.state is State.BLOCKED and found.state is State.RUN:
                return replace(found, state=State.BLOCKED, reason=known.reason)
            return replace(found, expected=known.expected)

        return decide

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
            reason = self._why(node, made_of)
        return Decision(node.name, State.RUN, reason, key, made_of)

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
        return Decision(node.name, State.PENDING, reason, None, made_of)

    def _why(self, node: Node, made_of: Mapping[str, object]) -> str:
        """What changed since a node of this name was last used."""
        old = self.history.last(node.name)
        return told(changes(old.action.preimage, made_of)) if old else "not built before"

    def _predicted(self, plan: Plan) -> Plan:
        """The plan with what each waiting node will take, and what this machine has too little of for it."""
        predictor = Predictor(plan.graph, lambda: self.history, self.host)
        decisions = dict(plan.decisions)
        for name, decision in decisions.items():
            node = plan.graph.nodes[name]
            if decision.artifact is not None:
                predictor.cached(node, decision.artifact.facts, decision.artifact.record.size_bytes)
            elif decision.state in WAITING:
                decisions[name] = replace(decision, expected=predictor.predict(node))
        found = replace(plan, decisions=MappingProxyType(decisions))
        memory_bytes = self.memory_bytes or min(self.host.memory_bytes, default_bound())
        return replace(found, short=of_room(found.expected, self.store.root, memory_bytes))

    @property
    def _cores(self) -> int:
        return self.cores or self.host.cores


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
        "short": [{"name": each.name, "fix": each.fix} for each in plan.short],
        "unverified": dict(plan.unverified),
        "expected": {"seconds": round(plan.expected_seconds, 3), "output_bytes": plan.output_bytes},
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
        "expected": decision.expected.to_json() if decision.expected else None,
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
