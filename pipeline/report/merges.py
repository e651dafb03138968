"""What a report shows of its merges: how alike the models are, what was kept of each, and what was tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..graph import Graph
    from ..outcome import Outcome

FAMILY = "merge"


@dataclass(frozen=True)
class MergeGroup:
    """The tensors of one role in one layer; layer: None for those outside of layers.

    kept: of each model, the share of the elements in which it differs from the base that the output kept.
    cosine, agreement: means over all pairs of models; None for a single one.
    """

    role: str
    layer: int | None
    kept: tuple[float | None, ...]
    cosine: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Search:
    """A search for coefficients. scores: of every trial on the first texts, nats a token, in their order.

    losses: model, or ``merged``, → the loss of each of ``texts``, nats a token.  coefficients: as text.  None
    stands for a loss that is not finite.
    """

    texts: tuple[str, ...]
    scores: tuple[float | None, ...]
    losses: Mapping[str, tuple[float | None, ...]]
    coefficients: Mapping[str, str]


@dataclass(frozen=True)
class HeldOut:
    """Texts that nothing was chosen by. losses: model, or ``merged``, → the loss of each, nats a token."""

    texts: tuple[str, ...]
    losses: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class MergeReport:
    """One merge. node: its name.  method: such as ties.  sources: the models beside the base, as written."""

    node: str
    method: str
    sources: tuple[str, ...] = ()
    groups: tuple[MergeGroup, ...] = ()
    search: Search | None = None
    held_out: HeldOut | None = None


def merge_reports(graph: Graph, outcome: Outcome) -> tuple[MergeReport, ...]:
    """Every merge of a run that was carried out, now or before, in the order of the graph."""
    return tuple(_merges(graph, outcome))


def _merges(graph: Graph, outcome: Outcome) -> Iterator[MergeReport]:
    for node in graph.nodes.values():
        result = outcome.results[node.name]
        if node.stage.partition(".")[0] != FAMILY or result.action is None or result.artifact is None:
            continue
        observed: Any = result.action.observed.get("stage") or {}
        found = [_group(each) for each in (observed.get("similarity") or {}).get("groups", ())]
        sources = found[0][0] if found else ()
        # Slices of other models have other columns.
        groups = tuple(group for own, group in found if own == sources)
        method = str(result.artifact.facts.get("merge_method", ""))
        titles = getattr(node.params, "titles", None) or {}
        search = _search(observed.get("search"), result.artifact.facts, titles)
        held_out = _held_out(observed.get("texts"))
        yield MergeReport(node.name, method, sources, groups, search, held_out)


def _group(value: Mapping[str, Any]) -> tuple[tuple[str, ...], MergeGroup]:
    group = MergeGroup(
        str(value["role"]), value["layer"], tuple(value["kept"]),
        _mean_of_pairs(value["cosine"]), _mean_of_pairs(value["sign_agreement"]),
    )  # fmt: skip
    return tuple(map(str, value["sources"])), group


def _mean_of_pairs(table: list[list[float | None]]) -> float | None:
    """The mean above the diagonal of a symmetric table; None where nothing there has a value."""
    values = [value for row, line in enumerate(table) for value in line[row + 1 :] if value is not None]
    return math.fsum(values) / len(values) if values else None


def _search(
    value: Mapping[str, Any] | None, facts: Mapping[str, Any], titles: Mapping[str, str]
) -> Search | None:
    if not value:
        return None
    first = min(trial["windows"] for trial in value["trials"])
    trials = (trial["losses"] for trial in value["trials"] if trial["windows"] == first)
    means = (None if None in losses else math.fsum(losses) / len(losses) for losses in trials)
    losses = _losses(value["sources"], value["best"]["losses"])
    return Search(
        tuple(value["texts"]),
        tuple(means),
        losses,
        {_label(each, titles): _shown(each["value"]) for each in facts.get("coefficients", ())},
    )


def _held_out(value: Mapping[str, Any] | None) -> HeldOut | None:
    return HeldOut(tuple(value["texts"]), _losses(value["sources"], value["merged"])) if value else None


def _losses(
    sources: Mapping[str, list[float | None]], merged: list[float | None]
) -> Mapping[str, tuple[float | None, ...]]:
    return {**{_short(name): tuple(each) for name, each in sources.items()}, "merged": tuple(merged)}


def _label(coefficient: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    name, model = str(coefficient["parameter"]), coefficient.get("model")
    return f"{name} of {_short(titles.get(model, model))}" if model else name


def _short(model: str) -> str:
    """A model without the folders that it is in."""
    return PurePath(model).name or model


def _shown(value: float | list[float]) -> str:
    return ", ".join(f"{each:.3g}" for each in (value if isinstance(value, list) else [value]))
