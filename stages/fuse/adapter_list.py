"""The list of adapters in a recipe, typed: which, and with what weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.schema import unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable

KEYS = ("adapter", "weight")


@dataclass(frozen=True)
class Listed:
    """One adapter. adapter: a directory or a node as a recipe has it, or the name of an input."""

    adapter: str
    weight: float = 1.0


def read_list(value: object) -> tuple[Listed, ...]:
    """The adapters that a parameter lists; raises RecipeError for what is no such list."""
    if not isinstance(value, list | tuple) or not value:
        fix = "write adapters: [{adapter: DIRECTORY, weight: 1.0}]"
        raise RecipeError("adapters is not a list with an adapter", fix=fix)
    return tuple(_entry(each, f"adapters[{index}]") for index, each in enumerate(value))


def written(listed: Iterable[Listed]) -> list[dict[str, object]]:
    """The inverse of :func:`read_list`, every weight stated."""
    return [{"adapter": each.adapter, "weight": each.weight} for each in listed]


def _entry(value: object, label: str) -> Listed:
    if isinstance(value, str):
        return Listed(value)
    if not isinstance(value, Mapping):
        raise RecipeError(f"{label}: {value!r} is neither a directory nor a mapping with one")
    for key in value:
        if key not in KEYS:
            raise unknown_name(str(key), KEYS, prefix=label, where=None)
    adapter, weight = value.get("adapter"), value.get("weight", 1.0)
    if not isinstance(adapter, str) or not adapter:
        raise RecipeError(
            f"{label}.adapter is missing", fix="name a directory or a node that makes an adapter"
        )
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise RecipeError(f"{label}.weight: {weight!r} is not a number")
    return Listed(adapter, float(weight))
