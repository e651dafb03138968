"""From a recipe to the plan of it, or of what was selected: what `ingot plan` shows and a run begins with.

It imports nothing of what carries a plan out or reports it, so that planning starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .assemble import graph_of
from .matrix import choose
from .plan import Plan, Planner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..artifacts.store import Store
    from .graph import Graph
    from .recipe import Recipe


def plan(recipe: Recipe, store: Store, select: Sequence[str] = ()) -> Plan:
    """What a run of ``recipe``, or of the selected targets alone, would do; touches nothing."""
    return Planner(store).plan(selected_graph(recipe, select))


def selected_graph(recipe: Recipe, select: Sequence[str]) -> Graph:
    """The graph of a recipe, or of the selected targets and cells alone; RecipeError for one it lacks."""
    graph = graph_of(recipe)
    return graph.selected(choose(graph.targets, select)) if select else graph
