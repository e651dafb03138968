"""Optimization profiles: for which shapes TensorRT makes an engine, and which of them it is tuned for.

    {"schema": "ingot/optimization-profiles/v1", "graphs": {"model.onnx": [
        {"name": "decode", "inputs": {"input_ids": {"min": [1, 1], "opt": [1, 1], "max": [8, 1]}, ...}}]}}

A language model has two: `prefill`, a prompt without a past, and `decode`, one token behind a cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .build import ENCODER_FILE

if TYPE_CHECKING:
    from ...model.families import Architecture
    from .graph import Graph

SCHEMA = "ingot/optimization-profiles/v1"
PROFILES_FILE = "optimization_profiles.json"

Shapes = Mapping[str, Mapping[str, list[int]]]


@dataclass(frozen=True)
class Range:
    """The least, the tuned and the largest size of a dimension."""

    least: int
    tuned: int
    most: int

    def __getitem__(self, place: int) -> int:
        return (self.least, self.tuned, self.most)[place]


def profiles(
    graphs: Mapping[str, Graph], model: Architecture, batch: Sequence[int], sequence: Sequence[int]
) -> dict[str, list[dict[str, object]]]:
    """The profiles of each graph.

    batch, sequence: sizes that are run; the first is tuned for, the largest is the most. A cache and what it
    makes with the next token reach the model's context.
    """
    return {
        name: [
            {"name": title, "inputs": _shapes(graph, sizes)}
            for title, sizes in _sizes(name, model, batch, sequence).items()
        ]
        for name, graph in graphs.items()
    }


def _sizes(
    name: str, model: Architecture, batch: Sequence[int], sequence: Sequence[int]
) -> dict[str, dict[str, Range]]:
    """The ranges of every dimension that varies, by profile."""
    together = Range(1, batch[0], max(batch))
    context = model.context
    tokens = Range(1, min(sequence[0], context), min(max(sequence), context))
    if model.task == "encoder" or name == ENCODER_FILE:
        longest = model.encoder.context if name == ENCODER_FILE and model.encoder is not None else context
        source = Range(1, min(sequence[0], longest), min(max(sequence), longest))
        return {"encode": {"batch": together, "sequence": source, "source": source}}
    one, before = Range(1, 1, 1), Range(1, min(tokens.tuned, context - 1), context - 1)
    after = Range(2, before.tuned + 1, context)
    none = Range(0, 0, 0)
    both = {"batch": together, "source": tokens}
    return {
        "prefill": {**both, "sequence": tokens, "past": none, "total": tokens},
        "decode": {**both, "sequence": one, "past": before, "total": after},
    }


def _shapes(graph: Graph, sizes: Mapping[str, Range]) -> Shapes:
    """Least, tuned and largest shape of every input."""
    found = {}
    for value in graph.structure.input:
        if value.name not in graph.input_names:
            continue
        dims = [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
        found[value.name] = {
            key: [sizes[dim][place] if isinstance(dim, str) else int(dim) for dim in dims]
            for place, key in enumerate(("min", "opt", "max"))
        }
    return found
