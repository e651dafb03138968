"""The graph of a run: frozen nodes with typed edges, in an order they can run in, and each target's leaf.

Nothing here knows recipes or profiles (see `assemble.py`), and nothing touches the store (see `plan.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ..artifacts.errors import RecipeError, nearest
from ..stages import base


@dataclass(frozen=True)
class Node:
    """One stage with its parameters at one place in a graph.

    name: such as ``quantize@cpu``.  stage: a stage's name, such as ``quantize.rtn``.  params: an instance of
    that stage's parameter class; file parameters are absolute paths.  inputs: input name → node name.
    target: the target it belongs to, or None for what several share.  reason: why it is in the graph.
    origins: parameter → where its value was written; a parameter that is missing there has its default.
    """

    name: str
    stage: str
    params: object
    inputs: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    reason: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def same_work(self, other: Node) -> bool:
        """Whether the two would compute the same thing, whatever they are called."""
        return (self.stage, self.params, dict(self.inputs), self.seed) == (
            other.stage, other.params, dict(other.inputs), other.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class GateRule:
    """One bound on a metric: ``rule`` is max, min, max_increase or max_decrease; origin: who asked for it."""

    metric: str
    rule: str
    limit: float | str
    origin: str


@dataclass(frozen=True)
class Leaf:
    """Where a target's branch ends: the nodes whose outputs are delivered and judged.

    artifact: the node whose output is shipped.  quality, cost, emulated: the nodes that measure it, the last
    where its target's processors can be emulated.  profile: the profile's name.  requires: distribution →
    versions that the target's runtime has, so that measuring it here tells of it.  notes: what the report
    must say of this target.  cell_of, cell: the target that a matrix fans out, and this cell's values.
    is_chosen: `--select` named it.
    """

    target: str
    profile: str
    artifact: str
    quality: str
    cost: str
    gates: tuple[GateRule, ...] = ()
    requires: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cell_of: str | None = None
    cell: Mapping[str, str] = field(default_factory=dict)
    is_chosen: bool = False
    emulated: str | None = None

    @property
    def is_delivered(self) -> bool:
        """Whether it may be delivered: cells of a matrix only when somebody chose them."""
        return self.cell_of is None or self.is_chosen

    @property
    def nodes(self) -> tuple[str, ...]:
        """The leaf nodes, artifact first."""
        return (self.artifact, self.quality, self.cost, *((self.emulated,) if self.emulated else ()))


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, a leaf for each target, and the other names that shared nodes go by.

    facts: what is known of the source without running anything (task, parameters, weight_bytes ...).
    sources: the same for every checkpoint that is loaded, by its node.
    notes: what plan and report must say, such as which text was taken because the recipe names none.
    """

    nodes: Mapping[str, Node]
    targets: Mapping[str, Leaf]
    aliases: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sources: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def node(self, name: str) -> Node:
        """The node of that name or alias; raises RecipeError with the nearest name when there is none."""
        name = self.aliases.get(name, name)
        if name not in self.nodes:
            names = (*self.nodes, *self.aliases)
            guess = nearest(name, names)
            fix = f"did you mean {guess}?" if guess else f"nodes are {', '.join(names)}"
            raise RecipeError(f"there is no node {name!r} in this graph", fix=fix)
        return self.nodes[name]

    def consumers(self, name: str) -> tuple[str, ...]:
        """The names of the nodes that take ``name``'s output."""
        return tuple(node.name for node in self.nodes.values() if name in node.inputs.values())

    def ancestors(self, *names: str) -> tuple[str, ...]:
        """The nodes that these come from, and they themselves, in the order of the graph."""
        wanted = set(names)
        for node in reversed(tuple(self.nodes.values())):
            if node.name in wanted:
                wanted.update(node.inputs.values())
        return tuple(name for name in self.nodes if name in wanted)

    def selected(self, targets: Sequence[str]) -> Graph:
        """The graph of these targets alone, as chosen ones."""
        leaves = {name: replace(self.targets[name], is_chosen=True) for name in targets}
        kept = set(self.ancestors(*(node for leaf in leaves.values() for node in leaf.nodes)))
        return replace(
            self,
            nodes=MappingProxyType({name: node for name, node in self.nodes.items() if name in kept}),
            targets=MappingProxyType(leaves),
            aliases=MappingProxyType({name: node for name, node in self.aliases.items() if node in kept}),
        )


class Builder:
    """Collects nodes; equal work is kept once, and every edge is checked as it is added."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._aliases: dict[str, str] = {}
        self._alike: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}

    def add(self, node: Node, spare: str | None = None, where: str | None = None) -> str:
        """Adds ``node``, or finds the node that already does its work; the name under which it is found.

        spare: its name when other work has taken its own.  where: where its inputs were written.  Nodes are
        added after what they take, so insertion order is a topological order. Raises RecipeError for an input
        that the stage does not have, one that is missing, or one of the wrong kind.
        """
        alike = self._alike.setdefault((node.stage, tuple(sorted(node.inputs.items()))), [])
        for known in alike:
            if self._nodes[known].same_work(node):
                return self._share(self._nodes[known], node)
        if node.name in self._nodes and spare is not None:
            node = replace(node, name=spare)
        if node.name in self._nodes:
            raise RecipeError(f"two different nodes are both called {node.name!r}", where=where)
        self._check_edges(node, where)
        self._nodes[node.name] = node
        alike.append(node.name)
        return node.name

    def node(self, name: str) -> Node:
        """The node that was added under that name."""
        return self._nodes[name]

    def output_kind(self, name: str) -> str:
        """The artifact kind that the node called ``name`` makes."""
        return base.get(self._nodes[name].stage).output

    def graph(self, targets: Sequence[Leaf], facts: Mapping[str, object], notes: Sequence[str] = ()) -> Graph:
        """The finished, frozen graph."""
        return Graph(
            MappingProxyType(dict(self._nodes)),
            MappingProxyType({leaf.target: leaf for leaf in targets}),
            MappingProxyType(dict(self._aliases)),
            MappingProxyType(dict(facts)),
            tuple(notes),
        )

    def _share(self, known: Node, node: Node) -> str:
        """Lets ``known`` do the work of ``node`` too; a node that targets share belongs to none of them."""
        if known.name != node.name:
            self._aliases[node.name] = known.name
        reason = known.reason if node.reason in known.reason else f"{known.reason}; {node.reason}"
        target = known.target if known.target == node.target else None
        self._nodes[known.name] = replace(known, target=target, reason=reason)
        return known.name

    def _check_edges(self, node: Node, where: str | None) -> None:
        stage = base.get(node.stage)
        for name in node.inputs:
            if stage.kinds_of(name) is None:
                names = (*stage.inputs, *(f"{stem}1, {stem}2 ..." for stem in stage.many))
                raise RecipeError(
                    f"{node.name}: stage {stage.name} has no input {name!r}",
                    where=where,
                    fix=f"its inputs are {', '.join(names) or 'none'}",
                )
        for name, kinds in stage.inputs.items():
            if name not in node.inputs:
                fix = f"name the node that makes its {' or '.join(kinds)}"
                what = f"{node.name}: stage {stage.name} needs the input {name!r}"
                raise RecipeError(what, where=where, fix=fix)
        for name, source in node.inputs.items():
            kinds = stage.kinds_of(name) or ()
            if source not in self._nodes:
                raise RecipeError(
                    f"{node.name}: its input {name!r} comes from {source!r}, which is not in the graph",
                    where=where,
                )
            kind = self.output_kind(source)
            if kind not in kinds:
                makers = [each for each in self._nodes if self.output_kind(each) in kinds]
                raise RecipeError(
                    f"{node.name}: stage {stage.name} takes {' or '.join(kinds)} as {name!r}, "
                    f"but {source} ({self._nodes[source].stage}) makes {kind}",
                    where=where,
                    fix=f"of the nodes before it, these fit: {', '.join(makers)}" if makers else None,
                )
