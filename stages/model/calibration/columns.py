"""The sweep over columns that second-order methods share: each is settled, and those behind pay for it.

Optimal Brain Surgeon in a fixed order (GPTQ, arXiv:2210.17323, algorithm 1; SparseGPT, arXiv:2301.00774,
algorithm 1): with U of H⁻¹ = UᵀU, what a column loses by being settled, divided by its U_qq, moves column j
behind it by −U_qj times that, after which the column is done with. Everything is float32 in torch and
transposed: a column of the weight is a contiguous row of what is worked on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from .masks import least_of_all, least_of_groups, share_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..sparsity import Target
    from .second_order import Factor

# Columns whose updates are gathered before the rest of the matrix is touched, and of which the entries that
# go are chosen together ("lazy batches" and B_s of the papers).
LAZY = 128


class Settle(Protocol):
    """What becomes of a column: its place in the order, and its values [rows] as they have become."""

    def __call__(self, place: int, values: torch.Tensor) -> torch.Tensor:
        """The values that it gets, a new tensor."""


def sweep(
    left: torch.Tensor, upper: torch.Tensor, settle: Settle, selection: Selection | None = None
) -> None:
    """Settles all columns of ``left`` [in, rows] in place. upper: U [in, in], columns in the same order."""
    width = len(left)
    for start in range(0, width, LAZY):
        stop = min(start + LAZY, width)
        block, own = left[start:stop], upper[start:stop, start:stop]
        diagonal = own.diagonal()
        errors = torch.empty_like(block)
        for row in range(stop - start):
            if selection is not None:
                selection.choose(start, row, block, diagonal)
            value = block[row]
            made = settle(start + row, value)
            errors[row] = (value - made).div_(own[row, row])
            block[row] = made
            block[row + 1 :].addr_(own[row, row + 1 :], errors[row], alpha=-1)
        left[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)


class Selection:
    """Chooses what goes while columns are swept, by w² / U_qq², what it costs at the moment of choosing.

    gone: bool [in, rows], columns in the order of the sweep.

    left: the weight [in, rows] in that order.  held: of its shape, what has gone before and stays so.
    parts: the rows of each weight, which gets its share by itself.  target: how much goes; groups of a
    pattern keep together in the order of the sweep. Where there is no pattern, entries are chosen of all rows
    of a weight in a block of columns, so rows may keep more or fewer, and so may blocks: w² / [H⁻¹]_qq, what
    each entry would cost alone, says beforehand how many. Weights of features that never act cost nothing.
    """

    def __init__(
        self,
        left: torch.Tensor,
        held: torch.Tensor,
        factor: Factor,
        parts: Sequence[slice],
        target: Target,
    ) -> None:
        self.gone = held.clone()
        self._dead = factor.is_dead
        self._sparsity = target.sparsity
        self._group = target.group
        self._wanted: list[tuple[slice, list[int]]] = []
        if not target.group:
            alone = left.square() / factor.upper.square().sum(0)[:, None]
            alone[self._dead] = 0.0
            alone.masked_fill_(self.gone, -1.0)
            for part in parts:
                first = least_of_all(alone[:, part], share_of(target.sparsity, alone[:, part].numel()))
                self._wanted.append((part, first.sum(1).cumsum(0).tolist()))

    def choose(self, start: int, row: int, block: torch.Tensor, diagonal: torch.Tensor) -> None:
        """Chooses ahead of the column ``start + row``, where something begins there."""
        if self._group and row % self._group == 0:
            columns = slice(row, row + self._group)
            scores = self._scores(start, columns, block, diagonal)
            self._take(start, columns, least_of_groups(scores.T, self._group, self._sparsity).T)
        elif not self._group and row == 0:
            columns = slice(0, len(block))
            scores = self._scores(start, columns, block, diagonal)
            for part, wanted in self._wanted:
                # Zeros that were there and more than the share make up for themselves in the blocks behind.
                count = wanted[start + len(block) - 1] - int(self.gone[:start, part].sum())
                entries = scores[:, part]
                self._take(start, columns, least_of_all(entries, min(max(count, 0), entries.numel())), part)

    def _scores(
        self, start: int, columns: slice, block: torch.Tensor, diagonal: torch.Tensor
    ) -> torch.Tensor:
        scores = (block[columns] / diagonal[columns, None]).square_()
        own = slice(start + columns.start, start + columns.stop)
        scores[self._dead[own]] = 0.0
        return scores.masked_fill_(self.gone[own], -1.0)

    def _take(self, start: int, columns: slice, chosen: torch.Tensor, part: slice = slice(None)) -> None:
        self.gone[start + columns.start : start + columns.stop, part] |= chosen
