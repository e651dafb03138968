"""How high a rank each weight gets, None for one that stays whole since two maps would be no smaller.

Two maps of rank r take r·(in + out) values in place of in·out. All sizes here count values: a factored weight
keeps the dtype that it had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ..model.allocation import Option, allocate
from .choice import DEFAULT_RATIO

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from ..model.families import Linear
    from .choice import FactorParams

    Doubles = npt.NDArray[np.float64]


def largest_rank(linear: Linear, multiple_of: int) -> int:
    """The largest rank, a multiple, whose two maps are smaller than the one; 0 where there is none."""
    values, step = linear.in_features * linear.out_features, linear.in_features + linear.out_features
    return (values - 1) // step // multiple_of * multiple_of


def rank_of_ratio(linear: Linear, ratio: float, multiple_of: int) -> int | None:
    """The largest rank, a multiple, that keeps at most that share of the values, else the least."""
    values, step = linear.in_features * linear.out_features, linear.in_features + linear.out_features
    wanted = int(ratio * values / step) // multiple_of * multiple_of
    return min(max(wanted, multiple_of), most) if (most := largest_rank(linear, multiple_of)) else None


def rank_of_energy(linear: Linear, dropped: Doubles, energy: float, multiple_of: int) -> int | None:
    """The least rank, a multiple, that keeps that share of the squared singular values.

    dropped: share of them that rank 0, 1, 2 ... leaves out.
    """
    for rank in range(multiple_of, largest_rank(linear, multiple_of) + 1, multiple_of):
        if dropped[rank] <= 1 - energy:
            return rank
    return None


def ranks_of_budget(
    linears: Mapping[str, Linear], dropped: Mapping[str, Doubles], budget: float, multiple_of: int
) -> dict[str, int | None]:
    """The ranks that lose least together of all that keep at most that share of all values.

    dropped: of each weight, as in :func:`rank_of_energy`.  Raises RecipeError where the least ranks are more.
    """
    choices: list[list[int | None]] = []
    items: list[list[Option]] = []
    for name, linear in linears.items():
        ranks = range(multiple_of, largest_rank(linear, multiple_of) + 1, multiple_of)
        step = linear.in_features + linear.out_features
        choices.append([*ranks, None])
        whole = Option(linear.in_features * linear.out_features, 0.0)
        items.append([*(Option(rank * step, float(dropped[name][rank])) for rank in ranks), whole])
    total = sum(linear.in_features * linear.out_features for linear in linears.values())
    try:
        taken = allocate(items, int(budget * total))
    except ValueError:
        least = sum(min(option.bits for option in item) for item in items) / total
        raise RecipeError(
            f"factor.budget: {budget} is less than weights of rank {multiple_of} take, {least:.3f} of all",
            fix="raise budget, or lower multiple_of",
        ) from None
    return {name: own[place] for name, own, place in zip(linears, choices, taken, strict=True)}


def needs_spectra(params: FactorParams) -> bool:
    """Whether ranks follow from the singular values of the weights."""
    return params.energy is not None or params.budget is not None


def ranks_of(
    params: FactorParams, linears: Mapping[str, Linear], dropped: Mapping[str, Doubles]
) -> dict[str, int | None]:
    """The rank of each weight, as the parameters ask for; dropped: see :func:`rank_of_energy`.

    Raises RecipeError for a budget that the least ranks exceed.
    """
    multiple = params.multiple_of
    if params.budget is not None:
        return ranks_of_budget(linears, dropped, params.budget, multiple)
    if params.energy is not None:
        energy = params.energy
        return {
            name: rank_of_energy(linear, dropped[name], energy, multiple) for name, linear in linears.items()
        }
    ratio = params.ratio or DEFAULT_RATIO
    return {name: rank_of_ratio(linear, ratio, multiple) for name, linear in linears.items()}
