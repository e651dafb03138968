"""Which choice each weight gets: the least total loss that a number of bits allows, a knapsack with choices.

Minimize Σ loss(i, c_i) subject to Σ bits(i, c_i) ≤ budget, one choice c_i for each weight. Choices on the
lower convex hull of loss over bits are taken by falling gain a bit (Lagrangian relaxation; Shoham and Gersho
1988, "Efficient bit allocation for an arbitrary set of quantizers"), which is optimal for every budget that
it hits exactly. What is left over is dealt with exactly, by dynamic programming over the bits in units of
their greatest common divisor, where that table is small, and by filling up what still fits where it is not.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Cells of the exact table, one for a weight and a number of units: a second or so of numpy.
TABLE_CELLS = 1 << 24


@dataclass(frozen=True)
class Option:
    """What one choice for a weight costs. bits: all that it takes.  loss: never negative."""

    bits: int
    loss: float


def allocate(items: Sequence[Sequence[Option]], budget: int) -> tuple[int, ...]:
    """The index of the option taken for each item.

    Of equal losses the fewer bits are taken. Raises ValueError where even the smallest options do not fit.
    """
    least = [min(range(len(item)), key=lambda n: (item[n].bits, item[n].loss)) for item in items]
    spare = budget - sum(item[n].bits for item, n in zip(items, least, strict=True))
    if spare < 0:
        raise ValueError(f"{-spare} bits more than {budget} are needed at least")
    extra = [[option.bits - item[n].bits for option in item] for item, n in zip(items, least, strict=True)]
    unit = math.gcd(*(bits for each in extra for bits in each)) or 1
    whole = max((sum(max(each) for each in extra)), 0)
    units = min(spare, whole) // unit
    if (units + 1) * len(items) <= TABLE_CELLS:
        scaled = [[bits // unit for bits in each] for each in extra]
        return _exact(items, scaled, units)
    return _greedy(items, least, spare)


def _exact(items: Sequence[Sequence[Option]], extra: list[list[int]], units: int) -> tuple[int, ...]:
    """Dynamic programming over how many units the items up to each may take."""
    import numpy as np

    best = np.zeros(units + 1)
    chosen = np.zeros((len(items), units + 1), np.uint16)
    for number, (item, sizes) in enumerate(zip(items, extra, strict=True)):
        found = np.full(units + 1, np.inf)
        for choice in sorted(range(len(item)), key=lambda n: (sizes[n], item[n].loss)):
            size = sizes[choice]
            if size > units:
                continue
            value = np.full(units + 1, np.inf)
            value[size:] = best[: units + 1 - size] + item[choice].loss
            better = value < found
            found[better] = value[better]
            chosen[number, better] = choice
        best = found
    picked, left = [0] * len(items), int(np.argmin(best))
    for number in reversed(range(len(items))):
        picked[number] = int(chosen[number, left])
        left -= extra[number][picked[number]]
    return tuple(picked)


def _greedy(items: Sequence[Sequence[Option]], least: Sequence[int], spare: int) -> tuple[int, ...]:
    """Steps along each item's hull by falling gain a bit; one that no longer fits ends its item's way."""
    hulls = [_hull(item, start) for item, start in zip(items, least, strict=True)]
    place = [0] * len(items)
    steps = [
        (-_gain(item, hull, 0), number)
        for number, (item, hull) in enumerate(zip(items, hulls, strict=True))
        if len(hull) > 1
    ]
    heapq.heapify(steps)
    while steps:
        _, number = heapq.heappop(steps)
        item, hull = items[number], hulls[number]
        bits = item[hull[place[number] + 1]].bits - item[hull[place[number]]].bits
        if bits > spare:
            continue
        spare -= bits
        place[number] += 1
        if place[number] + 1 < len(hull):
            heapq.heappush(steps, (-_gain(item, hull, place[number]), number))
    return tuple(hull[at] for hull, at in zip(hulls, place, strict=True))


def _hull(item: Sequence[Option], start: int) -> list[int]:
    """The choices on the lower convex hull from the smallest on, by rising bits and falling loss."""
    hull = [start]
    while True:
        here = item[hull[-1]]
        ahead = [n for n, option in enumerate(item) if option.bits > here.bits and option.loss < here.loss]
        if not ahead:
            return hull
        hull.append(
            max(ahead, key=lambda n: ((here.loss - item[n].loss) / (item[n].bits - here.bits), item[n].bits))
        )


def _gain(item: Sequence[Option], hull: list[int], at: int) -> float:
    here, then = item[hull[at]], item[hull[at + 1]]
    return (here.loss - then.loss) / (then.bits - here.bits)
