"""Weights that a recipe names by shell patterns."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from .families import Linear


def matching(names: Collection[str], pattern: str, label: str, kind: str = "weight") -> list[str]:
    """The names that match a shell pattern, in their order; raises RecipeError where there are none.

    label: what the pattern is called in messages, such as ``prune.ignore``.  kind: of what has the names.
    """
    found = fnmatch.filter(names, pattern)
    if not found:
        raise RecipeError(
            f"{label}: {pattern!r} matches no {kind}",
            fix=f"{kind}s are called like {next(iter(names), 'nothing')}",
        )
    return found


def named_or_inner(linears: Mapping[str, Linear], only: Sequence[str], label: str) -> list[str]:
    """The names of linear weights that patterns match, in order; without a pattern, all of the layers, and
    not those around them. Raises RecipeError as :func:`matching` does.
    """
    if not only:
        return [name for name, linear in linears.items() if linear.layer is not None]
    wanted = {name for pattern in only for name in matching(list(linears), pattern, label)}
    return [name for name in linears if name in wanted]
