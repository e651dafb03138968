"""Which weights are factored, and how small they become: the parameters that all methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.schema import param
from ..model.families.compact import first_name
from ..model.named import matching, named_or_inner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..model.families import Architecture, Linear

SIZES = ("ratio", "energy", "budget")
DEFAULT_RATIO = 0.8


@dataclass(frozen=True)
class FactorParams:
    """Parameters of every method that factors weights."""

    ratio: float | None = param(
        None,
        minimum=0.0,
        maximum=1.0,
        doc="share of its bytes that each weight keeps, above 0 and below 1; 0.8 where neither energy nor "
        "budget is given, as papers compare at",
    )
    energy: float | None = param(
        None,
        minimum=0.0,
        maximum=1.0,
        doc="in its place the share of each weight's squared singular values to keep, such as 0.95: weights "
        "differ in how small they become",
    )
    budget: float | None = param(
        None,
        minimum=0.0,
        maximum=1.0,
        doc="in its place the share of their bytes that all weights keep together, each as many as it loses "
        "least by, relative to what it gives",
    )
    multiple_of: int = param(
        8, minimum=1, doc="ranks are multiples of this; 8, since kernels work in such blocks"
    )
    only: tuple[str, ...] = param(
        (),
        doc="patterns of linear weights to factor, such as *.mlp.*; where there are none, all of the layers, "
        "and not the output head",
    )
    ignore: tuple[str, ...] = param(
        (), doc="patterns of weights to leave as they are, such as *.k_proj.weight"
    )

    def __post_init__(self) -> None:
        """Raises RecipeError for sizes out of range, and for two of them."""
        given = [name for name in SIZES if getattr(self, name) is not None]
        if len(given) > 1:
            what = f"factor: {' and '.join(given)} are {len(given)} ways to say how small weights become"
            raise RecipeError(what, fix="leave one of them")
        for name in given:
            value = getattr(self, name)
            if not 0 < value < 1:
                raise RecipeError(f"factor.{name}: {value!r} is not above 0 and below 1", fix="write 0.8")


def choose(model: Architecture, params: FactorParams) -> dict[str, Linear]:
    """The weights to factor, by tensor name, in the order of computation; of factored ones, none.

    A head that is tied to the embedding is no weight of its own, so it always stays. Raises RecipeError for a
    pattern that matches no weight, and where nothing is left to factor.
    """
    known = {linear.name: linear for linear in model.linears}
    factored = {part for name in known if first_name(name) in known for part in (name, first_name(name))}
    linears = {name: linear for name, linear in known.items() if name not in factored}
    chosen = named_or_inner(linears, params.only, "factor.only")
    for pattern in params.ignore:
        gone = set(matching(chosen, pattern, "factor.ignore"))
        chosen = [name for name in chosen if name not in gone]
    if not chosen:
        raise RecipeError("no weight would be factored", fix="ignore less, or drop the factor stage")
    return {name: linears[name] for name in chosen}


def preflight(params: FactorParams, directories: Mapping[str, Path]) -> None:
    """Raises RecipeError for patterns that match no weight, and where no weight could become smaller."""
    from ..model.checkpoint import Checkpoint
    from .ranks import needs_spectra, rank_of_ratio

    chosen = choose(Checkpoint.open(directories["model"]).architecture, params)
    if not needs_spectra(params):
        ratio = params.ratio or DEFAULT_RATIO
        if all(rank_of_ratio(each, ratio, params.multiple_of) is None for each in chosen.values()):
            raise nothing_saved(params)


def nothing_saved(params: FactorParams) -> RecipeError:
    """The error where every weight stays whole."""
    return RecipeError(
        "no weight would become smaller: factored as asked, the two maps of each take as much as the one",
        fix=f"ask for less, or lower multiple_of ({params.multiple_of})",
    )
