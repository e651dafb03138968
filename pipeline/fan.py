"""Fans targets out: which axes of a matrix reach a target, and the target's recipe in each of its cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError
from .layers import names_target
from .matrix import Axis, Cell, cells

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from ..targets.rules import Setting
    from .recipe import Recipe
    from .recipe_targets import Target


def fan_out(
    recipe: Recipe, target: Target, reached: Collection[str]
) -> Iterator[tuple[Recipe, Target, Cell]]:
    """The cells of a target, each with the recipe and the target that have its values.

    reached: the nodes and sections that the target's branch comes from.  Raises RecipeError for an axis of
    the target's own that reaches nothing, and for a parameter that has a value of its own beside an axis.
    """
    own = target.matrix
    for axis in own:
        if axis.path[0] not in reached:
            what = f"matrix.{axis} has no effect: {target.name} does not come from {axis.path[0]}"
            raise RecipeError(what, where=axis.origin, fix="take it out")
    wide = wide_axes(recipe, target, reached)
    _require_free(wide, recipe.settings, target.settings)
    _require_free(own, target.settings, ())
    overrides = (o for o in recipe.overrides if o.target is None or names_target(o.target, target.name))
    _require_free((*wide, *own), (), [override.setting for override in overrides])
    for cell in cells(target.name, (*wide, *own)):
        values = cell.settings
        yield (
            replace(recipe, settings=(*recipe.settings, *values[: len(wide)])),
            replace(target, settings=(*target.settings, *values[len(wide) :])),
            cell,
        )


def wide_axes(recipe: Recipe, target: Target, reached: Collection[str]) -> tuple[Axis, ...]:
    """The recipe's axes that reach a target and that the target does not replace by its own."""
    replaced = {axis.path for axis in target.matrix}
    return tuple(axis for axis in recipe.matrix if axis.path[0] in reached and axis.path not in replaced)


def _require_free(axes: Iterable[Axis], beside: Iterable[Setting], above: Iterable[Setting]) -> None:
    """Raises RecipeError for a value that an axis would override, or that would override an axis.

    beside: settings of the axis' own layer, which may repeat one of its values.  above: of stronger layers.
    """
    for axis in axes:
        values = [setting.value for setting in axis.values]
        for setting in (*(each for each in beside if each.value not in values), *above):
            if setting.path == axis.path:
                what = f"{axis}: {setting.value!r} stands beside a matrix of {axis} ({axis.origin})"
                raise RecipeError(what, where=setting.origin, fix="take one of the two out")
