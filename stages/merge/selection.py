"""The largest elements of a tensor, an exact number of them, found without sorting it or holding it whole.

A sample says within which bracket the smallest of them is likely to be. One pass counts what is above the
bracket and keeps what is in it; only where the sample was wrong, another bracket takes another pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from .blocks import Block, Blocks
    from .task import Operand

    # Magnitudes of a block: float32 [count] each, none of them negative.
    Magnitudes = Callable[[Block], Sequence[torch.Tensor]]
    Keys = npt.NDArray[np.int32]

# How a sample is taken: so many pieces, of so many elements.
PIECES, PIECE = 64, 1024
# Standard errors of a share in the sample that the bracket spans to each side, and by how much it is widened.
MARGIN, WIDER = 4.0, 4.0
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
    """What a block has of a bracket: how many keys above it, at its ends, and the others in it.

    Ends are counted, since a value that many elements share is likely to be one. Where both are one, it is
    the high one.
    """

    above: int
    high: int
    low: int
    inside: Keys

    def count(self, key: int, bracket: Bracket) -> int:
        """How many there are of a key that is in the bracket."""
        if key == bracket.high:
            return self.high
        return self.low if key == bracket.low else int(np.count_nonzero(self.inside == key))


class Find(Protocol):
    """What a block has of some brackets, None for cuts that are known already."""

    def __call__(self, block: Block, /, brackets: Sequence[Bracket | None]) -> list[Found | None]:
        """Of each bracket."""


class KeysOf(Protocol):
    """The keys of a block that the cut with a number is made of; a buffer will do."""

    def __call__(self, block: Block, /, number: int) -> Keys:
        """Of all elements."""


def largest(blocks: Blocks, magnitudes: Magnitudes, counts: Sequence[int]) -> list[Cut]:
    """The ``counts[i]`` largest elements of the i-th magnitudes; of equal ones those with lower indices.

    counts: each from 1 to the tensor's elements.  Not-a-number counts as larger than all numbers.
    """

    def found(block: Block, brackets: Sequence[Bracket | None]) -> list[Found | None]:
        keys = [each.numpy().view(np.int32) for each in magnitudes(block)]
        return [within(k, bracket) if bracket else None for k, bracket in zip(keys, brackets, strict=True)]

    def keys(block: Block, number: int) -> Keys:
        return magnitudes(block)[number].numpy().view(np.int32)

    return select(blocks, counts, found, keys)


def largest_differences(
    blocks: Blocks, base: Operand, operands: Sequence[Operand], counts: Sequence[int]
) -> list[Cut]:
    """The same of |operands − base|, with the kernels where there are some."""
    from . import native

    if not operands:
        return []
    if native.library() is None:

        def magnitudes(block: Block) -> list[torch.Tensor]:
            origin = block.read(base)
            return [block.read(operand).sub_(origin).abs_() for operand in operands]

        return largest(blocks, magnitudes, counts)

    def found(block: Block, brackets: Sequence[Bracket | None]) -> list[Found | None]:
        pairs = zip(operands, brackets, strict=True)
        return [native.search(block, base, each, bracket) if bracket else None for each, bracket in pairs]

    def keys(block: Block, number: int) -> Keys:
        return native.keys(block, base, operands[number])

    return select(blocks, counts, found, keys)


def select(
    blocks: Blocks,
    counts: Sequence[int],
    find: Find,
    keys: KeysOf,
) -> list[Cut]:
    """The cuts, however keys are come by."""
    numbers = range(len(counts))
    pieces = blocks.sample(lambda block: [keys(block, number).copy() for number in numbers], PIECES, PIECE)
    samples = [np.concatenate([piece[number] for piece in pieces]) if pieces else None for number in numbers]
    seekers = [_Seeker(count, blocks.count, sample) for count, sample in zip(counts, samples, strict=True)]
    while any(each.key is None for each in seekers):
        brackets = [each.bracket if each.key is None else None for each in seekers]
        found = blocks.map(partial(find, brackets=brackets))
        for number, each in enumerate(seekers):
            if each.key is None:
                each.learn([of_block for row in found if (of_block := row[number]) is not None])
    return [each.cut(blocks, partial(keys, number=number)) for number, each in enumerate(seekers)]


class _Seeker:
    """The search for the smallest of the ``count`` largest keys.

    key: it, once it is found.  block, nth: where the last of equal keys that counts is; None: all count.
    """

    def __init__(self, count: int, elements: int, sample: Keys | None) -> None:
        self.key: int | None = None
        self.block: int | None = None
        self.nth = 0
        self._count = count
        self._share = count / elements
        self._sample = np.empty(0, np.int32) if sample is None else sample
        self._margin = MARGIN
        self.bracket = self._around()

    def learn(self, found: Sequence[Found]) -> None:
        """Takes what each block has of the bracket: the key, or where to look next."""
        left = self._count - sum(each.above for each in found)
        inside = np.concatenate([each.inside for each in found])
        high, low = sum(each.high for each in found), sum(each.low for each in found)
        if not 0 < left <= high + len(inside) + low:
            self._look_elsewhere(is_above=left <= 0)
            return
        if left <= high:
            self.key = self.bracket.high
        elif left <= high + len(inside):
            left -= high
            self.key = int(np.partition(inside, len(inside) - left)[len(inside) - left])
            left -= int(np.count_nonzero(inside > self.key))
        else:
            left -= high + len(inside)
            self.key = self.bracket.low
        tied = [each.count(self.key, self.bracket) for each in found]
        if left == sum(tied):
            return
        for self.block, number in enumerate(tied):
            if left <= number:
                break
            left -= number
        self.nth = left - 1

    def cut(self, blocks: Blocks, keys: Callable[[Block], Keys]) -> Cut:
        """The cut at the key that was found. keys: of a block."""
        if self.key is None:
            raise AssertionError("the search is not over")
        last = blocks.count - 1
        if self.block is not None:
            key, nth = self.key, self.nth
            last = blocks.one(
                self.block, lambda block: block.start + int(np.flatnonzero(keys(block) == key)[nth])
            )
        return Cut(float(np.int32(self.key).view(np.float32)), last)

    def _around(self) -> Bracket:
        size = len(self._sample)
        if not size:
            return Bracket(0, MOST)
        below = 1 - self._share
        error = self._margin * ((self._share * below / size) ** 0.5 + self._margin / size)
        low, high = int((below - error) * size), int((below + error) * size) + 1
        wanted = [place for place in (low, high) if 0 < place < size]
        placed = np.partition(self._sample, wanted) if wanted else self._sample
        return Bracket(int(placed[low]) if low > 0 else 0, int(placed[high]) if high < size else MOST)

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
    low, high = bracket.low, bracket.high
    above, at_high, at_low = (
        int(np.count_nonzero(each)) for each in (keys > high, keys == high, keys == low)
    )
    inside = keys[(keys > low) & (keys < high)]
    return Found(above, at_high, at_low if low < high else 0, inside)
