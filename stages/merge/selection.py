"""The largest elements of a tensor, an exact number of them, found without sorting it or holding it whole.

A sample says within which bracket the smallest of them is likely to be. One pass counts what is above the
bracket and keeps what is in it; only where the sample was wrong, another bracket takes another pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from .blocks import Block, Blocks

    # Magnitudes of a block: float32 [count] each, none of them negative.
    Magnitudes = Callable[[Block], Sequence[torch.Tensor]]
    Keys = npt.NDArray[np.int32]

# How a sample is taken: so many pieces, of so many elements.
PIECES, PIECE = 64, 1024
# Standard errors of a share in the sample that the bracket spans to each side, and by how much it is widened.
MARGIN, WIDER = 6.0, 4.0
MOST = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Cut:
    """Which elements are the largest: above ``threshold``, and of those at it, up to the index ``last``."""

    threshold: float
    last: int

    def keeps(self, magnitudes: torch.Tensor, block: Block) -> torch.Tensor:
        """Which elements of a block are among the largest, bool [count]."""
        if block.start > self.last:
            return magnitudes > self.threshold
        kept = magnitudes >= self.threshold
        if block.stop > self.last + 1:
            behind = self.last + 1 - block.start
            kept[behind:] = magnitudes[behind:] > self.threshold
        return kept


@dataclass(frozen=True)
class Bracket:
    """Keys from ``low`` to ``high``, themselves in it. A key is the bits of a float32 that is not negative:
    whole numbers in the same order.
    """

    low: int
    high: int


@dataclass(frozen=True)
class Found:
    """What a block has of a bracket: how many keys above, and those within, rising, with how many of each."""

    above: int
    keys: Keys
    counts: npt.NDArray[np.int64]


def largest(blocks: Blocks, magnitudes: Magnitudes, counts: Sequence[int]) -> list[Cut]:
    """The ``counts[i]`` largest elements of the i-th magnitudes; of equal ones those with lower indices.

    counts: each from 1 to the tensor's elements.  Not-a-number counts as larger than all numbers.
    """

    def keys(block: Block) -> list[Keys]:
        return [each.numpy().view(np.int32) for each in magnitudes(block)]

    def search(brackets: Sequence[Bracket | None]) -> list[list[Found | None]]:
        def of_block(block: Block) -> list[Found | None]:
            pairs = zip(keys(block), brackets, strict=True)
            return [within(each, bracket) if bracket else None for each, bracket in pairs]

        return blocks.map(of_block)

    def places(number: int, key: int, index: int) -> npt.NDArray[np.int64]:
        return blocks.one(index, lambda block: block.start + np.flatnonzero(keys(block)[number] == key))

    pieces = blocks.sample(lambda block: [each.copy() for each in keys(block)], PIECES, PIECE)
    samples = [np.sort(np.concatenate(parts)) for parts in zip(*pieces, strict=True)]
    return select(blocks.count, samples, counts, search, places)


def select(
    elements: int,
    samples: Sequence[Keys],
    counts: Sequence[int],
    search: Callable[[Sequence[Bracket | None]], list[list[Found | None]]],
    places: Callable[[int, int, int], npt.NDArray[np.int64]],
) -> list[Cut]:
    """The cuts of ``counts`` of ``elements``, however their keys are come by.

    samples: of each, rising; none of a tensor that is searched whole.  search: what each block in turn has of
    some brackets; None for cuts that are known already.  places(number, key, block): the indices of a key.
    """
    seekers = [
        _Seeker(count, count / elements, samples[number] if samples else np.empty(0, np.int32))
        for number, count in enumerate(counts)
    ]
    while any(each.key is None for each in seekers):
        found = search([each.bracket if each.key is None else None for each in seekers])
        for number, each in enumerate(seekers):
            if each.key is None:
                each.learn([of_block for row in found if (of_block := row[number]) is not None])
    cuts = []
    for number, each in enumerate(seekers):
        if each.key is None:
            raise AssertionError("every search ends with a key")
        last = elements - 1
        if each.block is not None:
            last = int(places(number, each.key, each.block)[each.nth])
        cuts.append(Cut(float(np.int32(each.key).view(np.float32)), last))
    return cuts


class _Seeker:
    """The search for the smallest of the ``count`` largest keys.

    key: it, once it is found.  block, nth: where the last of equal keys that counts is; None: all count.
    """

    def __init__(self, count: int, share: float, sample: Keys) -> None:
        self.key: int | None = None
        self.block: int | None = None
        self.nth = 0
        self._count = count
        self._share = share
        self._sample = sample
        self._margin = MARGIN
        self.bracket = self._around()

    def learn(self, found: Sequence[Found]) -> None:
        """Takes what each block has of the bracket: the key, or where to look next."""
        above = sum(each.above for each in found)
        keys = np.concatenate([each.keys for each in found])
        order = np.argsort(keys, kind="stable")[::-1]
        reached = above + np.cumsum(np.concatenate([each.counts for each in found])[order])
        place = int(np.searchsorted(reached, self._count))
        if self._count <= above or place == len(order):
            self._look_elsewhere(is_above=self._count <= above)
            return
        self.key = int(keys[order[place]])
        tied = [int(each.counts[each.keys == self.key].sum()) for each in found]
        left = self._count - above - sum(int(each.counts[each.keys > self.key].sum()) for each in found)
        if left == sum(tied):
            return
        for self.block, number in enumerate(tied):
            if left <= number:
                break
            left -= number
        self.nth = left - 1

    def _around(self) -> Bracket:
        size = len(self._sample)
        if not size:
            return Bracket(0, MOST)
        below = 1 - self._share
        error = self._margin * ((self._share * below / size) ** 0.5 + self._margin / size)
        low, high = int((below - error) * size), int((below + error) * size) + 1
        return Bracket(
            int(self._sample[low]) if below > error else 0, int(self._sample[high]) if high < size else MOST
        )

    def _look_elsewhere(self, *, is_above: bool) -> None:
        """The sample was not like the tensor: the bracket beside the last, and a wider one."""
        last = self.bracket
        self._margin *= WIDER
        wider = self._around()
        if is_above:
            self.bracket = Bracket(last.high + 1, wider.high if wider.high > last.high else MOST)
        elif last.low > 0:
            self.bracket = Bracket(wider.low if wider.low < last.low else 0, last.low - 1)
        else:
            raise ValueError("magnitudes are never negative")


def within(keys: Keys, bracket: Bracket) -> Found:
    """What some keys have of a bracket."""
    inside = keys[(keys >= bracket.low) & (keys <= bracket.high)]
    found, counts = np.unique(inside, return_counts=True)
    return Found(int(np.count_nonzero(keys > bracket.high)), found, counts)
