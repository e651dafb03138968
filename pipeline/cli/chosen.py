"""What a target chooses for a model, and why: `ingot targets NAME --model MODEL`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ...artifacts import schema
from ...stages import base
from ..assemble import graph_of
from ..layers import environment
from ..recipe import recipe_from_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..graph import Graph, Leaf, Node

PLACES = {"cpu": "on this host", "cuda": "on the device"}


def chosen_page(name: str, model: str) -> str:
    """Each artifact of a target: its stages with what was set and by whom, its gates, and where it is run.

    Raises RequirementError, with the rule, for a model that the target's device does not take, and what
    looking at a model raises.
    """
    recipe = recipe_from_options(model, [name], overrides=environment(os.environ))
    graph = graph_of(recipe)
    facts = graph.facts
    parts = []
    for leaf in graph.targets.values():
        lines = [f"{leaf.target} for {facts['model_type']}, {facts['parameters']:,} parameters", "", "stages"]
        lines += [line for node in _stages(graph, leaf) for line in _told(node)]
        lines += ["", "gates", *(f"  {g.metric}.{g.rule}: {g.limit}  [{g.origin}]" for g in leaf.gates)]
        lines += ["", "measured", *_measured(graph, leaf)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _stages(graph: Graph, leaf: Leaf) -> list[Node]:
    """The nodes that the artifact comes from, but for loading."""
    return [graph.nodes[name] for name in graph.ancestors(leaf.artifact) if graph.nodes[name].inputs]


def _told(node: Node) -> Iterator[str]:
    """A node's stage, the parameters that somebody set, and why it is there."""
    yield f"  {node.stage}"
    for key, value in schema.to_plain(node.params).items():
        if key in node.origins:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            yield f"    {key}: {shown}  [{node.origins[key]}]"
    yield f"    because {node.reason}"


def _measured(graph: Graph, leaf: Leaf) -> Iterator[str]:
    for name in leaf.nodes[1:]:
        node = graph.nodes[name]
        stage = base.get(node.stage)
        missing = [each for each in (stage.requires(node.params) if stage.requires else ()) if not each.met]
        place = PLACES.get(str(getattr(node.params, "device", "cpu")), "on this host")
        title = node.stage.partition(".")[2]
        if missing and getattr(node.params, "format", "") in base.DELIVERED:
            place = "not at all"
        yield f"  {title}: {place}"
        yield from (f"    lacks {each.name} — {each.fix}" for each in missing)
