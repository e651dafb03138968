"""What depends on positions alone: rotary angles and attention masks, computed once for all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...model.positions import inverse_frequencies

if TYPE_CHECKING:
    from ...model.families import Rope
    from .graph import GraphBuilder


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of every position's angles, in the graph's dtype [batch, sequence, dim / 2].

    They are computed in float32, which tells positions apart that half precision does not.

    dim: rotated features of a head.
    """

    cosine: str
    sine: str
    dim: int


class Rotations:
    """Cosines and sines for int64 positions [batch, sequence]; no table, hence no longest position."""

    def __init__(self, graph: GraphBuilder, position_ids: str) -> None:
        self._graph = graph
        self._ids = position_ids
        self._made: list[tuple[Rope, Rotation]] = []

    def rotation(self, rope: Rope | None) -> Rotation | None:
        """The rotation of blocks that have that embedding; the same for equal ones."""
        if rope is None:
            return None
        made = next((rotation for known, rotation in self._made if known == rope), None)
        if made is None:
            made = self._make(rope, f"inverse_frequencies.{len(self._made)}")
            self._made.append((rope, made))
        return made

    def _make(self, rope: Rope, name: str) -> Rotation:
        graph = self._graph
        positions = graph.node("Unsqueeze", graph.node("Cast", self._ids, to=1), graph.ints(-1))
        frequencies = graph.array(name, inverse_frequencies(rope))
        if rope.kind == "longrope":
            frequencies = self._by_length(rope, frequencies)
        angles = graph.node("Mul", positions, frequencies)
        cosine, sine = graph.node("Cos", angles), graph.node("Sin", angles)
        if rope.kind == "longrope" and rope.scaling:
            factor = graph.scalar(rope.scaling["attention_factor"], "float32")
            cosine, sine = graph.node("Mul", cosine, factor), graph.node("Mul", sine, factor)
        if graph.dtype != "float32":
            cosine, sine = graph.cast(cosine), graph.cast(sine)
        return Rotation(cosine, sine, rope.dim)

    def _by_length(self, rope: Rope, both: str) -> str:
        """Of [2, dim / 2] the row for short contexts, or that for contexts longer than the original one."""
        graph, scaling = self._graph, rope.scaling or {}
        original = graph.scalar(int(scaling["original_max_position_embeddings"]), "int64")
        last = graph.node("ReduceMax", self._ids, keepdims=0)
        is_long = graph.node("Cast", graph.node("GreaterOrEqual", last, original), to=7)
        return graph.node("Gather", both, is_long)


class CausalMasks:
    """Masks [batch, 1, sequence, total], one for each window, from an attention mask [batch, total].

    A query sees the unmasked positions up to its own; with a window w, the last w of them.
    """

    def __init__(self, graph: GraphBuilder, input_ids: str, attention_mask: str) -> None:
        self._graph = graph
        self._made: dict[int | None, str] = {}
        sequence = graph.node("Shape", input_ids, start=1, end=2)
        total = graph.node("Shape", attention_mask, start=1, end=2)
        keys = range_of(graph, total)
        queries = range_of(graph, total, graph.node("Sub", total, sequence))
        self._keys = graph.node("Unsqueeze", keys, graph.ints(0))
        self._queries = graph.node("Unsqueeze", queries, graph.ints(1))
        self._unmasked = _unmasked(graph, attention_mask)

    def mask(self, window: int | None) -> str:
        """The mask for layers of that window."""
        if window not in self._made:
            graph = self._graph
            seen = graph.node("LessOrEqual", self._keys, self._queries)
            if window is not None:
                oldest = graph.node("Sub", self._queries, graph.scalar(window, "int64"))
                seen = graph.node("And", seen, graph.node("Greater", self._keys, oldest))
            self._made[window] = _additive(graph, graph.node("And", seen, self._unmasked))
        return self._made[window]


def range_of(graph: GraphBuilder, length: str, start: str | None = None) -> str:
    """The numbers from ``start`` (0 when None) below ``length``, each int64 [1]: int64 [length - start]."""
    first = graph.scalar(0, "int64") if start is None else graph.node("Squeeze", start)
    return graph.node("Range", first, graph.node("Squeeze", length), graph.scalar(1, "int64"))


def encoder_positions(graph: GraphBuilder, input_ids: str, padding: int | None) -> str:
    """Positions from 0 by column, int64 [sequence].

    With a ``padding`` token they count all others alone, and it is at -1: int64 [batch, sequence].
    """
    if padding is None:
        return range_of(graph, graph.node("Shape", input_ids, start=1, end=2))
    one = graph.scalar(1, "int64")
    is_padding = graph.node("Equal", input_ids, graph.scalar(padding, "int64"))
    counted = graph.node("Where", is_padding, graph.scalar(0, "int64"), one)
    numbers = graph.node("Mul", graph.node("CumSum", counted, graph.scalar(1, "int64")), counted)
    return graph.node("Sub", numbers, one)


def padding_mask(graph: GraphBuilder, attention_mask: str, queries: str | None = None) -> str:
    """A mask [batch, 1, queries, keys] by which every query sees all keys but padding.

    attention_mask: int64 [batch, keys].  queries: int64 [1], how many; as many as keys when None.
    """
    additive = _additive(graph, _unmasked(graph, attention_mask))
    batch = graph.node("Shape", attention_mask, start=0, end=1)
    length = graph.node("Shape", attention_mask, start=1, end=2)
    shape = graph.node("Concat", batch, graph.ints(1), queries or length, length, axis=0)
    return graph.node("Expand", additive, shape)


def _unmasked(graph: GraphBuilder, attention_mask: str) -> str:
    return graph.node("Unsqueeze", graph.node("Cast", attention_mask, to=9), graph.ints(1, 2))


def _additive(graph: GraphBuilder, seen: str) -> str:
    return graph.node("Where", seen, graph.scalar(0.0), graph.masked())
