"""Features that stay, trained to give what all of them gave: each feed-forward by itself, on what it reads.

Least squares fit what takes features up, not the features: their gates and entries are those that were right
among twice as many. A feed-forward works on each token alone, so its rows can be drawn from the whole text at
random, which makes steps of few rows as good as large ones of whole windows, at rates that a network trained
as a whole does not survive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from ..model.blocks.parts import activate
from ..model.families.architecture import Activation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Rows of a step, and the steps that the rate takes to rise.
ROWS = 256
WARM_UP = 10
# Of the root mean square of a map's weights, divided by the root of its inputs: what a weight moves by in a
# step at first. Half and twice as much gave back less.
RATE = 0.4
BETAS = (0.9, 0.98)
# Rows that are gathered, or whose error is taken, at once; whole steps of them.
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Features:
    """down(activation(gate x + gate_bias) · (up x + up_bias)), or without a gate down(activation(up x + …)).

    up, gate: float32 [features, in].  down: float32 [out, features]; its bias is no part of it.
    """

    up: torch.Tensor
    down: torch.Tensor
    activation: Activation
    gate: torch.Tensor | None = None
    up_bias: torch.Tensor | None = None
    gate_bias: torch.Tensor | None = None

    def active(self, rows: torch.Tensor) -> torch.Tensor:
        """What ``down`` reads: [rows, in] → [rows, features]."""
        opened = functional.linear(rows, self.up, self.up_bias)
        if self.gate is None:
            return activate(self.activation, opened)
        return activate(self.activation, functional.linear(rows, self.gate, self.gate_bias)) * opened

    def given(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, in] → [rows, out]."""
        return functional.linear(self.active(rows), self.down)

    def some(self, which: torch.Tensor, down: torch.Tensor) -> Features:
        """Those of them that ``which`` names, int64 [kept], taken up by ``down`` [out, kept]."""
        others = (self.gate, self.up_bias, self.gate_bias)
        gate, *biases = (None if each is None else each[which] for each in others)
        return Features(self.up[which], down, self.activation, gate, *biases)

    def of(self, maps: Sequence[torch.Tensor]) -> Features:
        """The same with other :attr:`maps`."""
        down, up, *gate = maps
        return Features(up, down, self.activation, gate[0] if gate else None, self.up_bias, self.gate_bias)

    @property
    def maps(self) -> list[torch.Tensor]:
        """down, up, and the gate where there is one."""
        return [self.down, self.up, *([] if self.gate is None else [self.gate])]

    def error(self, rows: Rows, which: torch.Tensor) -> float:
        """The mean over rows of the squared distance from what they are to give."""
        total = 0.0
        for part in torch.split(which, CHUNK):
            read, wanted = rows.at(part)
            total += float((self.given(read) - wanted).square().sum())
        return total / max(len(which), 1)


class Rows:
    """Rows that lie in batches. inputs: [rows, in] each.  targets: of the same rows, [rows, out]."""

    def __init__(self, inputs: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
        self._batches = list(zip(inputs, targets, strict=True))
        self._ends = torch.tensor([len(each) for each in inputs]).cumsum(0)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._ends[-1])

    def at(self, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of some, float32, in their order. which: int64 [rows]."""
        ordered, order = which.sort()
        counts = torch.bincount(torch.searchsorted(self._ends, ordered, right=True)).tolist()
        found: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
        for number, part in enumerate(torch.split(ordered, counts)):
            if len(part):
                start = int(self._ends[number - 1]) if number else 0
                for kind, batch in zip(found, self._batches[number], strict=True):
                    kind.append(batch.index_select(0, (part - start).to(batch.device)).float())
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        given, wanted = (torch.cat(each) for each in found)
        return given[place], wanted[place]


def imitate(features: Features, rows: Rows, which: torch.Tensor, epochs: int, seed: int) -> Features:
    """Features trained towards the targets of rows by Adam (arXiv:1412.6980), whether that is better or not.

    which: int64 [rows], those that are trained on, ``epochs`` times each.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        maps = [each.clone().requires_grad_() for each in features.maps]
        own = features.of(maps)
        rates = [RATE * float(each.detach().square().mean().sqrt()) / each.shape[1] ** 0.5 for each in maps]
        optimizer = torch.optim.Adam(
            [{"params": [each], "lr": rate} for each, rate in zip(maps, rates, strict=True)],
            betas=BETAS,
            fused=True,
        )
        steps, unit = epochs * math.ceil(len(which) / ROWS), None
        for step, (given, wanted) in enumerate(_draws(rows, which, epochs, seed)):
            share = min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = share * rate
            error = (own.given(given) - wanted).square().sum() / len(given)
            unit = unit or max(float(error.detach()), 1e-30)
            torch.autograd.backward(error / unit)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return features.of([each.detach() for each in maps])


def _draws(
    rows: Rows, which: torch.Tensor, epochs: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets of steps of at most ROWS rows, each row once an epoch, in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for some in torch.split(which[torch.randperm(len(which), generator=generator)], CHUNK):
            given, wanted = rows.at(some)
            yield from zip(torch.split(given, ROWS), torch.split(wanted, ROWS), strict=True)
