"""Which weights are pruned, and how much of each: the parameters that all methods share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError, nearest
from ...artifacts.schema import param
from ..model.checkpoint import Checkpoint
from ..model.named import matching, named_or_inner
from ..model.sparsity import GROUPS, Target, require_divided, target

if TYPE_CHECKING:
    from pathlib import Path

    from ..model.families import Architecture

OVERRIDABLE = ("sparsity", "pattern")


@dataclass(frozen=True)
class PruneParams:
    """Parameters of every method that sets single weights to zero."""

    sparsity: float | None = param(
        None,
        minimum=0.0,
        maximum=1.0,
        doc="share of each weight that becomes zero, above 0 and below 1; 0.5 where no pattern is given, as "
        "papers compare at",
    )
    pattern: str | None = param(
        None,
        choices=tuple(GROUPS),
        doc="in its place 2:4 or 4:8, of so many consecutive inputs at most so many stay: what sparse "
        "kernels take",
    )
    only: tuple[str, ...] = param(
        (),
        doc="patterns of linear weights to prune, such as *.mlp.*; where there are none, all of the layers, "
        "and not the output head",
    )
    ignore: tuple[str, ...] = param(
        (), doc="patterns of weights to leave bit for bit, such as *.down_proj.weight"
    )
    overrides: Mapping[str, Mapping[str, object]] | None = param(
        None,
        doc="pattern of weights → sparsity or pattern for them, such as "
        '{"*.down_proj.weight": {sparsity: 0.3}}; the last pattern that matches has the last word',
    )

    def __post_init__(self) -> None:
        """Raises RecipeError for a sparsity out of range, and for one beside a pattern."""
        target("prune", self.sparsity, self.pattern)

    @property
    def target(self) -> Target:
        """What is asked for where no override says otherwise."""
        return target("prune", self.sparsity, self.pattern)


def preflight(params: PruneParams, directories: Mapping[str, Path]) -> None:
    """Raises what :func:`choose` does of a model of which headers alone are known."""
    choose(Checkpoint.open(directories["model"]).architecture, params)


def choose(model: Architecture, params: PruneParams) -> dict[str, Target]:
    """The weights to prune, by tensor name, in the order of computation.

    A head that is tied to the embedding is no weight of its own, so it always stays. Raises RecipeError for a
    pattern that matches no weight, for an override of what cannot be overridden, for groups that do not
    divide a row, and where nothing would be pruned.
    """
    linears = {linear.name: linear for linear in model.linears}
    chosen = named_or_inner(linears, params.only, "prune.only")
    targets = dict.fromkeys(chosen, params.target)
    for pattern, changes in (params.overrides or {}).items():
        changed = _overridden(pattern, changes)
        for name in matching(chosen, pattern, "prune.overrides"):
            targets[name] = changed
    for pattern in params.ignore:
        for name in matching(chosen, pattern, "prune.ignore"):
            targets.pop(name, None)
    if not targets:
        raise RecipeError("no weight would be pruned", fix="ignore less, or drop the prune stage")
    for name, each in targets.items():
        require_divided(linears[name], each)
    return targets


def _overridden(pattern: str, changes: Mapping[str, object]) -> Target:
    label = f"prune.overrides.{pattern}"
    for key in changes:
        if key not in OVERRIDABLE:
            guess = nearest(key, OVERRIDABLE)
            fix = f"did you mean {guess}?" if guess else f"write {' or '.join(OVERRIDABLE)}"
            raise RecipeError(f"{label}.{key} is not a known name", fix=fix)
    if not changes:
        raise RecipeError(f"{label} changes nothing", fix=f"write {' or '.join(OVERRIDABLE)}")
    return target(label, changes.get("sparsity"), changes.get("pattern"))
