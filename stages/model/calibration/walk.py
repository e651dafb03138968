"""The walk: all batches through one block at a time, from stop to stop together.

At a stop, whoever visits sees the inputs of some linear maps for the whole calibration text, computed with
whatever has replaced the weights before them, and may replace those maps' own. The text thus passes every
block once, in true sequential order; one block's weights are in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ....artifacts.errors import StageError
from ....artifacts.tensors import TensorSource
from ..blocks.layer import Keep, Seen
from ..blocks.network import Batch, State, advance, steps
from ..blocks.tensors import BlockTensors
from ..families import Architecture, Linear
from ..heap import trim_heaps
from .shelf import Shelf
from .uses import Uses

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from ...base import Progress
    from ..blocks.layer import Run
    from ..blocks.network import Step
    from .journal import Journal, Results


@dataclass(frozen=True, eq=False)
class Stop:
    """What a visitor is shown. linears: maps that read one input.

    inputs: it, batch by batch, [rows, in_features] in the walk's dtype.  exact: the same in the network whose
    weights nothing has replaced; None unless the visitor asks for it, and for the experts of mixtures, whose
    rows differ between the two.  tensors: to read and replace the maps' weights.  keep: is given every tensor
    by batch that a visitor holds, and gives what to hold in its place.  onto: what the one map's
    output is added to, float32 [rows, hidden], or None; see :class:`Seen`.  exact_onto: the same of the other
    network, where ``exact`` is there too.
    """

    linears: tuple[Linear, ...]
    inputs: tuple[torch.Tensor, ...]
    exact: tuple[torch.Tensor, ...] | None
    tensors: BlockTensors
    pool: ThreadPoolExecutor
    keep: Keep
    onto: tuple[torch.Tensor, ...] | None = None
    exact_onto: tuple[torch.Tensor, ...] | None = None

    @property
    def rows(self) -> int:
        """Tokens that the maps have read."""
        return sum(len(each) for each in self.inputs)


class Visitor(Protocol):
    """What calibrated methods are to the walk.

    wanted: names of the weights at which it stops; the rest of the network behind the last is not computed.
    compares: whether :attr:`Stop.exact` is needed, at the price of a second network beside the first.
    """

    @property
    def wanted(self) -> Collection[str]:
        """Names of weights."""

    @property
    def compares(self) -> bool:
        """Whether :attr:`Stop.exact` is needed."""

    def visit(self, stop: Stop) -> Sequence[torch.Tensor] | None:
        """Looks at a stop, and replaces weights; what they are to read instead, [rows, features] by batch, or
        None for what they read.
        """

    def collect(self) -> tuple[Results, Mapping[str, object]]:
        """Tensors made since it was last asked, and what was observed of them, by tensor."""


@dataclass(frozen=True, eq=False)
class Walk:
    """A network, and a text to take through it. shelf: holds activations.  dtype: of products."""

    model: Architecture
    source: TensorSource
    batches: Sequence[Batch]
    shelf: Shelf
    device: torch.device
    dtype: torch.dtype
    threads: int

    def run(self, visitor: Visitor, journal: Journal, progress: Progress) -> None:
        """Takes the text as far as the last weight that the visitor wants; see `journal.py` for the rest.

        Raises StageError when an input is not finite.
        """
        torch.set_num_threads(1 if self.device.type == "cpu" else self.threads)
        todo = list(self._steps(visitor.wanted))
        _, states = journal.resume()
        names, saved = [step.name for step, _ in todo], journal.steps()
        done = names.index(saved[-1]) + 1 if saved else 0
        streams = self._resumed(states, 2 if visitor.compares else 1)
        with ThreadPoolExecutor(self.threads, initializer=_quiet) as pool, torch.inference_mode():
            linears = (linear for step, _ in todo[done:] for linear in step.linears)
            uses = Uses(linears, visitor.wanted, self.shelf.keep)
            for number, (step, last) in enumerate(todo):
                if number < done:
                    continue
                progress(number, len(todo), step.name)
                streams = self._step(step, streams, visitor, pool, uses, is_last=last)
                flat = [state for stream in streams for state in stream]
                # What is held for a later use is in no record: the work goes on from where nothing was.
                if not uses:
                    journal.save(step.name, *visitor.collect(), [] if last else flat)
        progress(len(todo), len(todo), "calibrated")

    def _steps(self, wanted: Collection[str]) -> Iterator[tuple[Step, bool]]:
        """The steps up to that of the last wanted weight, which is marked."""
        found = list(steps(self.model))
        last = max(
            (n for n, step in enumerate(found) if any(each.name in wanted for each in step.linears)),
            default=-1,
        )
        return ((step, number == last) for number, step in enumerate(found[: last + 1]))

    def _resumed(self, states: list[State] | None, count: int) -> list[list[State]]:
        if not states:
            return [[State(torch.empty(0)) for _ in self.batches] for _ in range(count)]
        size = len(self.batches)
        moved = [
            State(each.hidden.to(self.device), None if each.memory is None else each.memory.to(self.device))
            for each in states
        ]
        return [moved[stream * size : (stream + 1) * size] for stream in range(count)]

    def _step(
        self,
        step: Step,
        streams: list[list[State]],
        visitor: Visitor,
        pool: ThreadPoolExecutor,
        uses: Uses,
        *,
        is_last: bool,
    ) -> list[list[State]]:
        tensors = [BlockTensors(self.source, self.device, self.dtype) for _ in streams]
        runs = [
            [
                step.run(own, self.shelf.keep, batch, state)
                for batch, state in zip(self.batches, stream, strict=True)
            ]
            for own, stream in zip(tensors, streams, strict=True)
        ]
        memories = [state.memory for state in streams[0]], [state.memory for state in streams[-1]]
        # What a coroutine has left behind, nobody holds.
        for stream in streams:
            stream.clear()
        left = {linear.name for linear in step.linears} & set(visitor.wanted)
        sent: Sequence[torch.Tensor] | None = None
        try:
            while True:
                found = [_advance(stream, step, pool, sent if stream is runs[0] else None) for stream in runs]
                sent = None
                # Pieces of what was computed lie between what is held, and would not go back by themselves.
                trim_heaps()
                if not isinstance(found[0][0], Seen):
                    return [
                        [advance(step, *pair) for pair in zip(stream, results, strict=True)]
                        for stream, results in zip(memories, found, strict=False)
                    ]
                stop = self._stop(found, tensors[0], pool)
                if not left.isdisjoint(linear.name for linear in stop.linears):
                    for due in uses.due(stop):
                        if any(linear.name in visitor.wanted for linear in due.linears):
                            sent = visitor.visit(due) or sent
                    left -= {linear.name for linear in stop.linears}
                    if is_last and not left:
                        return []
                del found, stop
        finally:
            for own in tensors:
                own.release()

    def _stop(self, found: list[list[Seen]], tensors: BlockTensors, pool: ThreadPoolExecutor) -> Stop:
        linears = found[0][0].linears
        inputs = [tuple(seen.inputs for seen in stream) for stream in found]
        is_routed = any(linear.name in self.model.routed for linear in linears)
        exact = inputs[1] if len(inputs) > 1 and not is_routed else None
        onto = [tuple(seen.onto for seen in stream if seen.onto is not None) or None for stream in found]
        return Stop(
            linears,
            inputs[0],
            exact,
            tensors,
            pool,
            self.shelf.keep,
            onto[0],
            onto[-1] if exact is not None else None,
        )


def _advance(
    runs: Sequence[Run], step: Step, pool: ThreadPoolExecutor, sent: Sequence[torch.Tensor] | None
) -> list[Any]:
    """Takes all coroutines to their next stop: what they show, or behind the last, what they gave.

    sent: what each is to read in place of what it showed last.
    """

    def on(run: Run, instead: torch.Tensor | None) -> Any:
        with torch.inference_mode():
            try:
                seen = run.send(instead)
            except StopIteration as end:
                return end.value
            if not torch.isfinite(seen.inputs.sum(dtype=torch.float32)):
                name = seen.linears[0].name
                raise StageError(
                    f"{step.name}: the input of {name} is not finite for some of the calibration text",
                    fix="compute in float32 (compute_dtype: float32); if that fails too, the checkpoint's "
                    "weights overflow on this text",
                )
        return seen

    return list(pool.map(on, runs, sent or (None,) * len(runs)))


def _quiet() -> None:
    torch.set_num_threads(1)
