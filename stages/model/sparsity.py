"""How much of a weight becomes zero, and in which pattern: what pruning and rounding sparse weights share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .families import Linear

DEFAULT_SPARSITY = 0.5
# Steps in which conjugate gradients fit what stays: more gain next to nothing.
REFIT_STEPS = 10
# Of how many consecutive inputs of a row half stay: what sparse tensor cores and their compilers take.
GROUPS: Mapping[str, int] = {"2:4": 4, "4:8": 8}


@dataclass(frozen=True)
class Target:
    """How much of a weight becomes zero. sparsity: the share of it, above 0 and below 1.

    group: that share of every so many consecutive inputs of a row; 0 leaves free where the zeros are.
    """

    sparsity: float
    group: int = 0

    @property
    def label(self) -> str | None:
        """The name of its pattern."""
        return next((label for label, group in GROUPS.items() if group == self.group), None)


def target(label: str, sparsity: object, pattern: object) -> Target:
    """The target that two values ask for; raises RecipeError that names ``label`` where they ask for none."""
    if pattern is not None:
        if pattern not in GROUPS:
            raise RecipeError(f"{label}.pattern: {pattern!r} is not one of {', '.join(GROUPS)}")
        if sparsity is not None:
            raise RecipeError(
                f"{label}: sparsity and pattern are two targets, and {pattern} leaves half",
                fix="leave one of them out",
            )
        return Target(0.5, GROUPS[str(pattern)])
    share = DEFAULT_SPARSITY if sparsity is None else sparsity
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise RecipeError(f"{label}.sparsity: {share!r} is not above 0 and below 1", fix="0.5 prunes half")
    return Target(float(share))


def require_divided(linear: Linear, chosen: Target) -> None:
    """Raises RecipeError where the groups of a pattern do not divide a row."""
    if chosen.group and linear.in_features % chosen.group:
        raise RecipeError(
            f"groups of {chosen.group} do not divide the {linear.in_features} inputs of {linear.name}",
            fix="give a sparsity in place of the pattern, or name the weight in ignore",
        )
