"""Whether exporters take the weights that they are given, as far as headers tell, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..artifacts.errors import InputError
from ..stages import base
from ..stages.load.intake import open_source
from ..stages.load.packed import open_packed
from .trunk import LOAD_QUANTIZED, QUANTIZED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..stages.model.families import Architecture
    from ..stages.model.quantized import WeightSpec
    from .graph import Graph, Node


def require_accepted(graph: Graph, directories: Mapping[str, Path]) -> None:
    """Raises what a stage says of weights that it does not take, with the place where it was asked for.

    directories: of the checkpoints that are loaded, by node. Weights are known where they come straight from
    one of them; what shared stages make of a model is looked at when it is there.
    """
    opened: dict[str, Architecture] = {}
    for node in graph.nodes.values():
        stage = base.get(node.stage)
        if stage.accepts is None or len(node.inputs) != 1:
            continue
        source = graph.nodes[next(iter(node.inputs.values()))]
        found = _weights(source, graph, directories, opened) or _plain(source, directories, opened)
        if found is None:
            continue
        try:
            stage.accepts(node.params, *found)
        except InputError as error:
            where = error.where or next(iter(node.origins.values()), None)
            raise type(error)(f"{node.name}: {error.what}", where=where, fix=error.fix) from None


def _weights(
    node: Node, graph: Graph, directories: Mapping[str, Path], opened: dict[str, Architecture]
) -> tuple[Mapping[str, WeightSpec], Architecture] | None:
    """The quantized weights that a node makes, and of which network; None where that is not known.

    opened: architectures that were read before, by node.
    """
    stage = base.get(node.stage)
    if node.stage == LOAD_QUANTIZED:
        packed = open_packed(directories[node.name])
        return packed.weights, packed.model
    source = next(iter(node.inputs.values()), "")
    if stage.formats is None or not source:
        return None
    if base.get(graph.nodes[source].stage).output == QUANTIZED:
        return _weights(graph.nodes[source], graph, directories, opened)
    model = _architecture(source, directories, opened)
    return None if model is None else (stage.formats(node.params, model), model)


def _plain(
    node: Node, directories: Mapping[str, Path], opened: dict[str, Architecture]
) -> tuple[Mapping[str, WeightSpec], Architecture] | None:
    """No quantized weights, of the network that a node loads; None for a node that loads none."""
    model = None if node.inputs else _architecture(node.name, directories, opened)
    return None if model is None else ({}, model)


def _architecture(
    node: str, directories: Mapping[str, Path], opened: dict[str, Architecture]
) -> Architecture | None:
    if node not in directories:
        return None
    if node not in opened:
        # Whether it may be pickled has been decided: only the headers are read here.
        opened[node] = open_source(directories[node], allow_pickle=True).architecture
    return opened[node]
