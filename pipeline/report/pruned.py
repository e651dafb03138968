"""What a report shows of its pruning: zeros by layer, widths before and after, and which layers went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..units import show_count
from .weights import roles_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..graph import Graph
    from ..outcome import Outcome

FAMILY = "prune"
KINDS: Mapping[str, str] = {
    "ffn": "FFN features", "heads": "groups of heads", "experts": "experts", "hidden": "state",
}  # fmt: skip


@dataclass(frozen=True)
class WidthChange:
    """Channels of one kind in one layer; layer: None for those of all layers together.

    role: what they are, such as FFN features.  before, after: how many.
    """

    role: str
    layer: int | None
    before: int
    after: int


@dataclass(frozen=True)
class Zeros:
    """The share of zeros in the weights of one role in one layer; layer: None for those outside of layers."""

    role: str
    layer: int | None
    share: float


@dataclass(frozen=True)
class Influence:
    """How far a layer turns its input: 1 − the mean cosine. dropped: it went."""

    layer: int
    influence: float
    dropped: bool


@dataclass(frozen=True)
class PruneReport:
    """One pruning. node: its name.  method: such as sparsegpt.  sparsity: of all pruned weights together.

    dropped: layers of the model before that went, of layers_before.
    """

    node: str
    method: str
    sparsity: float | None = None
    zeros: tuple[Zeros, ...] = ()
    widths: tuple[WidthChange, ...] = ()
    influence: tuple[Influence, ...] = ()
    layers_before: int = 0
    dropped: tuple[int, ...] = ()

    @property
    def summary(self) -> str:
        """What went, in a line."""
        parts = [] if self.sparsity is None else [f"{self.sparsity:.1%} of the weights are zero"]
        for role in dict.fromkeys(change.role for change in self.widths):
            pairs = {(each.before, each.after) for each in self.widths if each.role == role}
            shown = ", ".join(f"{show_count(old)} → {show_count(new)}" for old, new in sorted(pairs))
            parts.append(f"{role} {shown}")
        if self.dropped:
            left = self.layers_before - len(self.dropped)
            parts.append(f"layers {self.layers_before} → {left}, without {', '.join(map(str, self.dropped))}")
        return "; ".join(parts)


def prune_reports(graph: Graph, outcome: Outcome) -> tuple[PruneReport, ...]:
    """Every pruning of a run that was carried out, now or before, in the order of the graph."""
    return tuple(_prunings(graph, outcome))


def _prunings(graph: Graph, outcome: Outcome) -> Iterator[PruneReport]:
    for node in graph.nodes.values():
        result = outcome.results[node.name]
        if node.stage.partition(".")[0] != FAMILY or result.action is None or result.artifact is None:
            continue
        facts, observed = result.artifact.facts, _mapping(result.action.observed.get("stage"))
        is_sparse = "sparsity_by_weight" in facts
        yield PruneReport(
            node.name,
            str(facts.get("pruned_by", "")),
            float(str(facts["sparsity"])) if is_sparse else None,
            tuple(_zeros(facts["sparsity_by_weight"], roles_of(result.artifact.path))) if is_sparse else (),
            tuple(_widths(facts.get("widths"))),
            tuple(_influence(observed.get("influence"))),
            int(str(facts.get("layers_before", 0))),
            tuple(int(layer) for layer in _list(facts.get("layers_dropped"))),
        )


def _zeros(shares: Any, roles: Mapping[str, tuple[str, int | None]]) -> Iterator[Zeros]:
    """The mean over weights of one role in one layer, in the order of computation."""
    found: dict[tuple[str, int | None], list[float]] = {}
    for name, place in roles.items():
        if name in shares:
            found.setdefault(place, []).append(float(shares[name]))
    for (role, layer), each in found.items():
        yield Zeros(role, layer, sum(each) / len(each))


def _widths(value: Any) -> Iterator[WidthChange]:
    """One for each kind and layer; of experts' features, which are alike within a layer, the first."""
    seen = set()
    for each in _list(value):
        role, layer = KINDS.get(str(each["kind"]), str(each["kind"])), each["layer"]
        change = WidthChange(role, layer, int(each["before"]), int(each["after"]))
        if change not in seen:
            seen.add(change)
            yield change


def _influence(value: Any) -> Iterator[Influence]:
    for each in _list(value):
        yield Influence(int(each["layer"]), float(each["influence"]), bool(each["dropped"]))


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
