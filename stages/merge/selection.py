"""The largest elements of a tensor, an exact number of them, found without sorting it or holding it whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from .blocks import Block, Blocks

    # Magnitudes of a block: float32 [count] each, none of them negative.
    Magnitudes = Callable[[Block], Sequence[torch.Tensor]]

# The bits of a float32 that is not negative order as the number does: 31 of them, halved.
LOW_BITS = 15
HIGH = 1 << 16
LOW = 1 << LOW_BITS


@dataclass(frozen=True)
class Cut:
    """Which elements are the largest: those above ``threshold``, and of those at it the first ``quota``.

    ties_before: how many are at the threshold in all blocks before each.
    """

    threshold: float
    quota: int
    ties_before: Sequence[int]

    def keeps(self, magnitudes: torch.Tensor, block: Block) -> torch.Tensor:
        """Which elements of a block are among the largest, bool [count]."""
        left = self.quota - self.ties_before[block.index]
        if left <= 0:
            return magnitudes > self.threshold
        kept = magnitudes >= self.threshold
        tied = (magnitudes == self.threshold).nonzero().flatten()
        kept[tied[left:]] = False
        return kept


def largest(blocks: Blocks, magnitudes: Magnitudes, counts: Sequence[int]) -> list[Cut]:
    """The ``counts[i]`` largest elements of the i-th magnitudes; of equal ones those with lower indices.

    counts: each from 1 to the tensor's elements.
    """
    number = len(counts)

    def coarse(block: Block) -> torch.Tensor:
        found = [torch.bincount(_bits(each) >> LOW_BITS, minlength=HIGH) for each in magnitudes(block)]
        return torch.stack(found)

    bins, left = _reached(_added(blocks.map(coarse)), counts)

    def fine(block: Block) -> torch.Tensor:
        found = []
        for each, chosen in zip(magnitudes(block), bins, strict=True):
            bits = _bits(each)
            found.append(torch.bincount(bits[bits >> LOW_BITS == chosen] & (LOW - 1), minlength=LOW))
        return torch.stack(found)

    lows, quotas = _reached(_added(blocks.map(fine)), left)
    exact = torch.tensor(
        [(b << LOW_BITS) | low for b, low in zip(bins, lows, strict=True)], dtype=torch.int32
    )
    thresholds = exact.view(torch.float32).tolist()

    def ties(block: Block) -> list[int]:
        found = zip(magnitudes(block), thresholds, strict=True)
        return [int((each == threshold).sum()) for each, threshold in found]

    counted = blocks.map(ties)
    return [
        Cut(thresholds[i], quotas[i], [0, *accumulate(each[i] for each in counted)]) for i in range(number)
    ]


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32)


def _added(histograms: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(histograms)).sum(0)


def _reached(histograms: torch.Tensor, counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """The bin that the count reaches from above, and how many of that bin's it takes; of each."""
    bins, left = [], []
    for histogram, count in zip(histograms, counts, strict=True):
        from_above = histogram.flip(0).cumsum(0)
        place = int(torch.searchsorted(from_above, count))
        bins.append(len(histogram) - 1 - place)
        left.append(count - (int(from_above[place - 1]) if place else 0))
    return bins, left
