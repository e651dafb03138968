"""Products of activations with one another, summed over all tokens: what second-order methods work from.

Whole batches, blocks of features and parts of the text are separate pieces of work, each done by one thread,
and sums are taken in one order: results are the same, to the last bit, for any number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import ThreadPoolExecutor

# Wide enough that a product runs at full speed, narrow enough that a wide layer makes work for many threads.
BLOCK = 256
# A narrow layer has a single block: its text is cut into as many parts instead.
PARTS = 4


def gram(inputs: Sequence[torch.Tensor], pool: ThreadPoolExecutor) -> torch.Tensor:
    """XᵀX of batches [rows, features], in the batches' dtype with sums in float32: [features, features].

    Only blocks on and above the diagonal are computed, half of the work for wide layers.
    """
    width = inputs[0].shape[1]
    found = torch.zeros(width, width, dtype=torch.float32, device=inputs[0].device)
    columns = _blocks(width)
    pieces = [(left, right) for place, left in enumerate(columns) for right in columns[place:]]
    for left, right, value in _products(inputs, inputs, pieces, pool):
        found[left, right] += value
    # Products of one block with itself are symmetric but for rounding, and factorizations want them so.
    return found.triu() + found.triu(1).T


def cross(
    first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], pool: ThreadPoolExecutor
) -> torch.Tensor:
    """YᵀX of two lists of batches with the same rows, [rows, m] and [rows, n]: float32 [m, n]."""
    sizes = (first[0].shape[1], second[0].shape[1])
    found = torch.zeros(sizes, dtype=torch.float32, device=first[0].device)
    pieces = [(left, right) for left in _blocks(sizes[0]) for right in _blocks(sizes[1])]
    for left, right, value in _products(first, second, pieces, pool):
        found[left, right] += value
    return found


def _products(
    first: Sequence[torch.Tensor],
    second: Sequence[torch.Tensor],
    pieces: Sequence[tuple[slice, slice]],
    pool: ThreadPoolExecutor,
) -> Iterable[tuple[slice, slice, torch.Tensor]]:
    size = -(-len(first) // (PARTS if len(pieces) == 1 else 1))
    parts = [slice(start, start + size) for start in range(0, len(first), size)]

    def work(left: slice, right: slice, part: slice) -> tuple[slice, slice, torch.Tensor]:
        with torch.inference_mode():
            total = torch.zeros(_length(left), _length(right), device=first[0].device)
            for one, other in zip(first[part], second[part], strict=True):
                total += (one[:, left].T @ other[:, right]).float()
        return left, right, total

    jobs = [pool.submit(work, left, right, part) for left, right in pieces for part in parts]
    return (job.result() for job in jobs)


def _blocks(width: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, width)) for start in range(0, width, BLOCK)]


def _length(block: slice) -> int:
    return int(block.stop - block.start)
