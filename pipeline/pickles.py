"""Which of a recipe's checkpoints may be read from pickles: those that whoever runs it said so of.

A recipe cannot say it, since it may be somebody else's: the word is `--allow-pickle`, for all of them, or
`--set load.allow_pickle=true` for one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError
from ..targets.rules import Setting
from .layers import Override, outer_layers, resolve
from .steps import LOAD

if TYPE_CHECKING:
    from .recipe import Recipe

OPTION = "--allow-pickle"
PARAM = "allow_pickle"


def load_nodes(recipe: Recipe) -> tuple[str, ...]:
    """The names of all nodes that load a checkpoint."""
    return (LOAD, *(step.name for step in recipe.steps if step.family == LOAD))


def with_pickles(recipe: Recipe) -> Recipe:
    """``recipe`` as `--allow-pickle` means it: every checkpoint may be pickled."""
    allowed = (Setting((name, PARAM), True, OPTION) for name in load_nodes(recipe))
    overrides = (Override("command line", setting, None) for setting in allowed)
    return replace(recipe, overrides=(*recipe.overrides, *overrides))


def pickles_allowed(recipe: Recipe) -> frozenset[str]:
    """The load nodes whose checkpoints may be pickled; raises RecipeError where the recipe itself says so."""
    nodes = load_nodes(recipe)
    for setting in recipe.settings:
        if setting.path[0] in nodes and setting.path[1] == PARAM:
            raise RecipeError(
                f"{'.'.join(setting.path)}: a recipe cannot allow pickles, for it may be somebody else's",
                where=setting.origin,
                fix=f"take it out, and run with {OPTION} if you trust the checkpoint",
            )
    said = resolve(outer_layers(recipe.overrides, None))
    return frozenset(name for name in nodes if (name, PARAM) in said and said[name, PARAM].value is True)
