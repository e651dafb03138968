"""Patterns of weights in a recipe, tried on the headers of its source: a wrong one is found at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError
from ..stages import base
from ..stages.model.checkpoint import SAFETENSORS, Checkpoint, present

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .graph import Graph, Node

PARAMETERS = ("overrides", "ignore")


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


def _check(node: Node, directory: Path, named: list[str]) -> None:
    formats = base.get(node.stage).formats
    if formats is None:
        return
    try:
        formats(node.params, Checkpoint.open(directory).architecture)
    except RecipeError as error:
        name = next((name for name in named if f".{name}" in error.what), named[0])
        raise RecipeError(error.what, where=node.origins.get(name), fix=error.fix) from None
