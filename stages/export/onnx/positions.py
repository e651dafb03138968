"""What depends on positions alone: rotary angles and attention masks, computed once for all layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .blocks import Rotation

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...model.families import Rope
    from .graph import GraphBuilder

# Added to a score that must not count; finite, since a padded row masks everything and must not give NaN.
MASKED = float(np.finfo(np.float32).min)


def inverse_frequencies(rope: Rope) -> npt.NDArray[np.float32]:
    """Radians a position for each pair of features: float32 [dim / 2], theta^(-2i/dim), scaled by its kind.

    `linear` divides all by the factor (arXiv:2306.15595). `llama3` divides only the slow ones, whose
    wavelength exceeds the original context over `low_freq_factor`, keeps the fast ones, and blends between
    (the reference code of Llama 3.1). Computed in float32, as the reference implementations do.
    """
    exponents = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    frequencies = np.float32(1) / np.power(np.float32(rope.theta), exponents)
    scaling = rope.scaling or {}
    if rope.kind == "linear":
        frequencies = frequencies / np.float32(scaling["factor"])
    if rope.kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / np.float32(2 * math.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        frequencies = (1 - kept) * frequencies / scaling["factor"] + kept * frequencies
    return np.asarray(frequencies, np.float32)


def rotation(graph: GraphBuilder, rope: Rope, position_ids: str) -> Rotation:
    """Cosines and sines for int64 positions [batch, sequence]; no table, hence no longest position."""
    positions = graph.node("Unsqueeze", graph.node("Cast", position_ids, to=1), graph.ints(-1))
    angles = graph.node("Mul", positions, graph.array("inverse_frequencies", inverse_frequencies(rope)))
    return Rotation(graph.node("Cos", angles), graph.node("Sin", angles))


class CausalMasks:
    """Masks float32 [batch, 1, sequence, total], one for each window, from an attention mask [batch, total].

    A query sees the unmasked positions up to its own; with a window w, the last w of them.
    """

    def __init__(self, graph: GraphBuilder, input_ids: str, attention_mask: str) -> None:
        self._graph = graph
        self._made: dict[int | None, str] = {}
        sequence = graph.node("Squeeze", graph.node("Shape", input_ids, start=1, end=2))
        total = graph.node("Squeeze", graph.node("Shape", attention_mask, start=1, end=2))
        one = graph.scalar(1, "int64")
        keys = graph.node("Range", graph.scalar(0, "int64"), total, one)
        queries = graph.node("Range", graph.node("Sub", total, sequence), total, one)
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


def encoder_positions(graph: GraphBuilder, input_ids: str, padding: int | None) -> str:
    """Positions from 0 by column, int64 [sequence].

    With a ``padding`` token they count all others alone, and it is at -1: int64 [batch, sequence].
    """
    one = graph.scalar(1, "int64")
    if padding is None:
        length = graph.node("Squeeze", graph.node("Shape", input_ids, start=1, end=2))
        return graph.node("Range", graph.scalar(0, "int64"), length, one)
    is_padding = graph.node("Equal", input_ids, graph.scalar(padding, "int64"))
    counted = graph.node("Where", is_padding, graph.scalar(0, "int64"), one)
    numbers = graph.node("Mul", graph.node("CumSum", counted, graph.scalar(1, "int64")), counted)
    return graph.node("Sub", numbers, one)


def padding_mask(graph: GraphBuilder, attention_mask: str) -> str:
    """The mask of an encoder, float32 [batch, 1, sequence, sequence]: every query sees all but padding."""
    additive = _additive(graph, _unmasked(graph, attention_mask))
    batch = graph.node("Shape", attention_mask, start=0, end=1)
    length = graph.node("Shape", attention_mask, start=1, end=2)
    shape = graph.node("Concat", batch, graph.ints(1), length, length, axis=0)
    return graph.node("Expand", additive, shape)


def _unmasked(graph: GraphBuilder, attention_mask: str) -> str:
    return graph.node("Unsqueeze", graph.node("Cast", attention_mask, to=9), graph.ints(1, 2))


def _additive(graph: GraphBuilder, seen: str) -> str:
    return graph.node("Where", seen, graph.scalar(0.0), graph.scalar(MASKED))
