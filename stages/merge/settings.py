"""Settings of a merge's parameters: one value, a list that is spread over the layers, or one for each filter.

What mergekit's recipes mean by them: a list of n numbers stands at the points t = 0, 1/(n-1) ... 1 of a slice
and is interpolated linearly in between; t is 0 in its first layer and 1 in its last, and so it is in a slice
of one layer. Of a list of {filter, value}, the first entry holds whose filter occurs in the tensor's name, or
is missing, or is `*`; where none does, the setting says nothing, and one a level higher is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .method import Parameter
    from .recipe import Setting, Settings
    from .written import Place

ANY = "*"


def check_setting(place: Place, parameter: Parameter) -> Setting:
    """The setting of a parameter, in one of its three forms.

    Raises RecipeError for a value of another type than the parameter's, or out of its range, and for a list
    of anything but numbers.
    """
    value = place.value
    if isinstance(value, Mapping):
        return [_condition(place, parameter)]
    if not isinstance(value, list | tuple):
        return _check_value(place, parameter)
    if not value:
        raise place.error("is an empty list", "write a value, numbers to spread over the layers, or filters")
    if all(isinstance(each, Mapping) for each in value):
        return [_condition(each, parameter) for each in place.items()]
    if parameter.kind is not float:
        raise place.error("cannot change from layer to layer", "write one value, or one for each filter")
    return [_check_value(each, parameter) for each in place.items()]


def value_of(setting: Setting, tensor: str, t: float) -> float | bool | None:
    """What a setting is for a tensor at the point ``t`` of its slice, 0 to 1; None where it says nothing."""
    if isinstance(setting, float | int):
        return setting
    if not isinstance(setting, list | tuple):
        raise TypeError(f"{setting!r} is no setting")
    if not isinstance(setting[0], Mapping):
        return _between(setting, t)
    for entry in setting:
        wanted = entry.get("filter", ANY)
        if wanted == ANY or wanted in tensor:
            return value_of(entry["value"], tensor, t)
    return None


def first_of(name: str, levels: Iterable[Settings], tensor: str, t: float) -> float | bool | None:
    """The value of a parameter at the innermost of some levels that says one; None where none does."""
    for level in levels:
        if name in level:
            value = value_of(level[name], tensor, t)
            if value is not None:
                return value
    return None


def _between(points: list[float] | tuple[float, ...], t: float) -> float:
    position = t * (len(points) - 1)
    first = min(int(position), len(points) - 1)
    second = min(first + 1, len(points) - 1)
    part = position - first
    return (1 - part) * points[first] + part * points[second]


def _condition(place: Place, parameter: Parameter) -> dict[str, object]:
    value = place.mapping("filter", "value")
    if value.get("value") is None:
        raise place.error("has no value", "write {filter: PART OF A NAME, value: VALUE}")
    inner = check_setting(place.child("value"), parameter)
    if isinstance(inner, list) and isinstance(inner[0], Mapping):
        raise place.child("value").error("has filters inside a filter", "write one list of {filter, value}")
    wanted = place.child("filter")
    return {"value": inner} if wanted.value in (None, ANY) else {"filter": wanted.text(), "value": inner}


def _check_value(place: Place, parameter: Parameter) -> float | bool:
    """One value as the parameter's type, within its bounds."""
    value = place.value
    if parameter.kind is bool:
        return place.flag()
    if isinstance(value, bool) or not isinstance(value, int if parameter.kind is int else int | float):
        raise place.wrong("a whole number" if parameter.kind is int else "a number", parameter.doc)
    number: float = value if parameter.kind is int else float(value)
    if parameter.minimum is not None and number < parameter.minimum:
        raise place.error(f"is {value}, below {parameter.minimum}", parameter.doc)
    if parameter.maximum is not None and number > parameter.maximum:
        raise place.error(f"is {value}, above {parameter.maximum}", parameter.doc)
    return number
