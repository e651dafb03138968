"""Patterns of weights in a recipe, tried on the headers of its source: a wrong one is found at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..artifacts.errors import IntakeError, RecipeError
from ..stages import base
from ..stages.model.checkpoint import SAFETENSORS, Checkpoint, present
from ..stages.train.names import check_patterns
from .steps import LOAD

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from .graph import Graph, Node

PARAMETERS = ("overrides", "ignore")
TRAINED = ("freeze", "groups")
# Families whose stages give networks with the parameters of what comes in, or with some of them.
KEEPING = ("dequantize", "distill", "factor", "finetune", "prune", "quantize", "share")


def check_weight_patterns(graph: Graph, sources: Mapping[str, Path]) -> None:
    """Raises RecipeError, with the place in the recipe, for a pattern that no weight of its model has.

    sources: node → directory of what it loads.  Models that another stage made, or whose family is not in the
    table, are known only when they are there; the stage itself tells then.
    """
    for node in graph.nodes.values():
        named = [name for name in PARAMETERS if getattr(node.params, name, None)]
        directory = sources.get(node.inputs.get("model", ""))
        if named and directory is not None and present(directory, (SAFETENSORS.single, SAFETENSORS.index)):
            _check(node, directory, named)


def check_trained_patterns(graph: Graph, sources: Mapping[str, Path]) -> None:
    """Raises RecipeError, with the place in the recipe, for a pattern of `freeze` or `groups` that fits no
    parameter of what a stage trains.

    sources: as above.  Through stages that leave parameters their names a model is followed to where it is
    loaded; behind others, such as merges, the stage itself tells.
    """
    for node in graph.nodes.values():
        names_of = base.get(node.stage).parameters
        if names_of is None or not any(getattr(node.params, name, None) for name in TRAINED):
            continue
        directory = _origin(node, graph, sources)
        if directory is None or not present(directory, (SAFETENSORS.single, SAFETENSORS.index)):
            continue
        try:
            names = names_of(node.params, Checkpoint.open(directory))
        except IntakeError:
            continue  # loading comes first, and says what is wrong
        if names is not None:
            _check_trained(node, names)


def _check_trained(node: Node, names: Collection[str]) -> None:
    params: Any = node.params
    try:
        check_patterns(params, names)
    except RecipeError as error:
        where = node.origins.get(error.what.partition(":")[0])
        raise RecipeError(f"{node.name}.{error.what}", where=where, fix=error.fix) from None


def _origin(node: Node, graph: Graph, sources: Mapping[str, Path]) -> Path | None:
    """The directory of the checkpoint whose parameters a node's model has, by name; None for no known one."""
    name = node.inputs.get("model", "")
    while name in graph.nodes and (before := graph.nodes[name]).stage != LOAD:
        if before.stage.partition(".")[0] not in KEEPING:
            return None
        name = before.inputs.get("model", "")
    return sources.get(name)


def _check(node: Node, directory: Path, named: list[str]) -> None:
    formats = base.get(node.stage).formats
    if formats is None:
        return
    try:
        formats(node.params, Checkpoint.open(directory).architecture)
    except RecipeError as error:
        name = next((name for name in named if f".{name}" in error.what), named[0])
        raise RecipeError(error.what, where=node.origins.get(name), fix=error.fix) from None
