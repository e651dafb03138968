"""What a search over merges may choose: parameters of a method within ranges, and the merge at one choice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from .method import Method
from .recipe import Member, Recipe, Slice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


WEIGHT = "weight"
# Where a range for weights is not given: from leaving a model out to taking it whole.
WEIGHTS = (0.0, 1.0)


@dataclass(frozen=True)
class Axis:
    """A number that is chosen. parameter: its name.  model: the input that it is of, None for all of them.

    knot: which of the values that are spread over the layers.  low, high: its range, both allowed.
    """

    parameter: str
    model: str | None
    knot: int
    low: float
    high: float


@dataclass(frozen=True)
class Space:
    """All merges that differ from ``recipe`` in the axes alone. knots: values over the network's depth."""

    recipe: Recipe
    method: Method
    axes: tuple[Axis, ...]
    knots: int

    @staticmethod
    def of(recipe: Recipe, method: Method, ranges: Mapping[str, tuple[float, float]], knots: int) -> Space:
        """The merges within ``ranges``: parameter → lowest and highest value.

        A parameter that each model has, such as a weight, is chosen for each. Raises RecipeError for a
        parameter that the method does not have, that is no number, or that the recipe fixes already, and for
        a range that is none, or reaches past the parameter's bounds.
        """
        axes: list[Axis] = []
        for name, (low, high) in ranges.items():
            _check_range(method, name, low, high)
            scope = method.parameter(name).scope
            models = dict.fromkeys(member.model for member in recipe.members())
            owners: list[str | None] = [None] if scope == "shared" else [*models]
            if scope == "non_base":
                owners = [model for model in owners if model != recipe.base]
            if _is_fixed(recipe, name):
                fix = "leave it out there, or take its range out"
                raise RecipeError(f"ranges.{name}: the merge gives {name} a value too", fix=fix)
            axes += [Axis(name, model, knot, low, high) for model in owners for knot in range(knots)]
        if not axes:
            raise RecipeError(
                "ranges: nothing is left to choose", fix=f"give one, such as {{{WEIGHT}: [0, 1]}}"
            )
        return Space(recipe, method, tuple(axes), knots)

    def at(self, point: Sequence[float]) -> Recipe:
        """The merge at a point: a value for each axis, in their order."""
        shared: dict[str, object] = {}
        own: dict[str, dict[str, object]] = {}
        for (name, model), value in self.settings(point).items():
            if model is None:
                shared[name] = value
            else:
                own.setdefault(model, {})[name] = value

        def member(each: Member) -> Member:
            return replace(each, parameters={**each.parameters, **own.get(each.model, {})})

        def slice_(each: Slice) -> Slice:
            return replace(each, members=tuple(map(member, each.members)))

        modules = {
            name: replace(module, slices=tuple(map(slice_, module.slices)))
            for name, module in self.recipe.modules.items()
        }
        parameters = {**self.recipe.parameters, **shared}
        return replace(self.recipe, modules=modules, parameters=parameters)

    def settings(self, point: Sequence[float]) -> dict[tuple[str, str | None], float | list[float]]:
        """Parameter and input → its value, or its values from the first layer to the last."""
        found: dict[tuple[str, str | None], list[float]] = {}
        for axis, value in zip(self.axes, point, strict=True):
            found.setdefault((axis.parameter, axis.model), []).append(value)
        return {key: values if self.knots > 1 else values[0] for key, values in found.items()}

    def anchors(self) -> Iterator[tuple[float, ...]]:
        """Merges that a person would try first: the middle of the ranges, all alike, each one alone."""
        yield tuple((axis.low + axis.high) / 2 for axis in self.axes)
        models = list(dict.fromkeys(axis.model for axis in self.axes if axis.parameter == WEIGHT))
        for chosen in ([*models], *([model] for model in models)) if len(models) > 1 else ():
            yield tuple(
                _within(axis, float(axis.model in chosen) / len(chosen))
                if axis.parameter == WEIGHT
                else _within(axis, 1.0)
                for axis in self.axes
            )

    def clip(self, point: Sequence[float]) -> tuple[float, ...]:
        """The nearest point within the ranges."""
        return tuple(_within(axis, float(value)) for axis, value in zip(self.axes, point, strict=True))


def _within(axis: Axis, value: float) -> float:
    return min(max(value, axis.low), axis.high)


def _check_range(method: Method, name: str, low: float, high: float) -> None:
    parameter = method.parameter(name)
    if parameter.kind is not float or parameter.is_ignored:
        raise RecipeError(f"ranges.{name}: {method.name} takes no number there that could be chosen")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RecipeError(f"ranges.{name}: [{low:g}, {high:g}] is no range", fix="write [lowest, highest]")
    least = -math.inf if parameter.minimum is None else parameter.minimum
    most = math.inf if parameter.maximum is None else parameter.maximum
    if low < least or high > most:
        what = f"ranges.{name}: [{low:g}, {high:g}] reaches past {method.name}'s own [{least:g}, {most:g}]"
        raise RecipeError(what, fix=parameter.doc)


def _is_fixed(recipe: Recipe, name: str) -> bool:
    levels = [recipe.parameters]
    for module in recipe.modules.values():
        levels += [module.parameters, *(each.parameters for each in module.slices)]
    levels += [member.parameters for member in recipe.members()]
    return any(name in level for level in levels)
