"""How much a network's output feels an error in the output of each linear map: squared gradients, by feature.

The loss is the negative log-likelihood of tokens drawn from the network's own predictions, so that the mean
square of its gradient is the Fisher information: half of it is what a small error costs in KL divergence
(Martens 2020, arXiv:1412.1193, section 9). A network without predictions takes standard normal numbers as the
gradient of its output, whose mean square is then that of the output's error.

One block is in memory at a time: states are kept between blocks on the way up, and each block is computed
anew, with gradients, on the way down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from ....artifacts.tensors import TensorSource
from ..blocks.layer import finish
from ..blocks.network import Batch, State, Step, advance, steps
from ..blocks.tensors import BlockTensors
from ..families import Architecture
from .shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..families import Linear

    Report = Callable[[int, int, str], None]
    Squares = dict[str, torch.Tensor]
    End = Callable[[torch.Tensor, Architecture, Batch, int], None]


class Watched(BlockTensors):
    """Tensors that keep, for one batch, what gradients will be asked of: the outputs of linear maps."""

    def __init__(self, kept: BlockTensors) -> None:
        self.device, self.dtype = kept.device, kept.dtype
        self._kept = kept
        self._outputs: dict[str, torch.Tensor] = {}

    def squares(self) -> Squares:
        """Squared gradients, once the way back is done; of the outputs, by map, summed over tokens."""
        return {
            name: value.grad.reshape(-1, value.shape[-1]).square().sum(0)
            for name, value in self._outputs.items()
            if value.grad is not None
        }

    def vector(self, name: str) -> torch.Tensor:  # noqa: D102 # as in BlockTensors, all of these
        return self._kept.vector(name)

    def rows(self, name: str, ids: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self._kept.rows(name, ids)

    def matrix(self, linear: Linear) -> torch.Tensor:  # noqa: D102
        return self._kept.matrix(linear)

    def original(self, linear: Linear) -> torch.Tensor:  # noqa: D102
        return self._kept.original(linear)

    def given(self, linear: Linear, value: torch.Tensor) -> torch.Tensor:  # noqa: D102
        if not value.requires_grad:  # behind the tokens' embedding, nothing that came before asks for one
            value.requires_grad_()
        value.retain_grad()
        self._outputs[linear.name] = value
        return value


@dataclass(frozen=True, eq=False)
class Fisher:
    """A network, and a text to take through it forwards and back. All is computed in float32.

    seed: of the tokens that are drawn.  watch: what squares are of.  end: starts the way back at what the
    network gives, for a batch and a seed.
    """

    model: Architecture
    source: TensorSource
    batches: Sequence[Batch]
    shelf: Shelf
    device: torch.device
    threads: int
    seed: int
    watch: Callable[[BlockTensors], Watched] = Watched
    end: End | None = None

    def squares(self, progress: Report) -> Squares:
        """By linear map, the sum of its outputs' squared gradients over the text by token: float32 [out].

        The sum of half its products with an output error's mean squares is that error's cost a token, in
        nats, as far as errors of different features and tokens do not go together. Results are the same for
        any number of threads.
        """
        tokens = sum(batch.ids.numel() for batch in self.batches)
        found: Squares = {}
        for _, squares in self.walk(progress):
            for name, value in squares.items():
                found[name] = found[name] + value if name in found else value
        return {name: total / tokens for name, total in found.items()}

    def walk(self, progress: Report) -> Iterator[tuple[Step, Squares]]:
        """The steps on the way down, each with its squares, summed over batches."""
        torch.set_num_threads(1)
        todo = list(steps(self.model))
        with ThreadPoolExecutor(self.threads, initializer=_quiet) as pool:
            kept = self._up(todo, pool, progress)
            gradients: list[torch.Tensor | None] = [None] * len(self.batches)
            memory: list[torch.Tensor | None] = [None] * len(self.batches)
            for number in reversed(range(len(todo))):
                step = todo[number]
                progress(2 * len(todo) - 1 - number, 2 * len(todo), f"{step.name} back")
                gradients, memory, squares = self._down(step, kept.pop(), gradients, memory, pool)
                yield step, squares

    def _up(self, todo: list[Step], pool: ThreadPoolExecutor, progress: Report) -> list[list[State]]:
        """The states in front of every step."""
        states, kept = [State(torch.empty(0)) for _ in self.batches], []
        for number, step in enumerate(todo):
            progress(number, 2 * len(todo), step.name)
            kept.append(states)
            if number + 1 == len(todo):
                break
            tensors = BlockTensors(self.source, self.device, torch.float32)
            tensors.bring(step.linears)

            def on(pair: tuple[Batch, State], step: Step = step, tensors: BlockTensors = tensors) -> State:
                batch, state = pair
                with torch.no_grad():
                    given = finish(step.run(tensors, self.shelf.keep, batch, state))
                return advance(step, state.memory, given)

            states = list(pool.map(on, zip(self.batches, states, strict=True)))
            tensors.release()
        return kept

    def _down(
        self,
        step: Step,
        states: list[State],
        gradients: list[torch.Tensor | None],
        memory: list[torch.Tensor | None],
        pool: ThreadPoolExecutor,
    ) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None], Squares]:
        tensors = BlockTensors(self.source, self.device, torch.float32)
        tensors.bring(step.linears)

        def on(number: int) -> tuple[torch.Tensor | None, torch.Tensor | None, Squares]:
            return self._back(step, tensors, number, states[number], gradients[number], memory[number])

        below, memories, found = [], [], dict[str, torch.Tensor]()
        for gradient, held, squares in pool.map(on, range(len(self.batches))):
            below.append(gradient)
            memories.append(held)
            for name, value in squares.items():
                found[name] = found[name] + value if name in found else value
        tensors.release()
        return below, memories, found

    def _back(
        self,
        step: Step,
        tensors: BlockTensors,
        number: int,
        state: State,
        gradient: torch.Tensor | None,
        memory: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, Squares]:
        """The gradients of a step's state and memory, and the squares of what is watched, for one batch."""
        hidden = state.hidden.detach().requires_grad_()
        held = state.memory.detach().requires_grad_() if state.memory is not None else None
        watched = self.watch(tensors)
        with torch.enable_grad():
            run = step.run(watched, lambda tensor: tensor, self.batches[number], State(hidden, held))
            given = finish(run)
            if gradient is None and not step.is_memory:
                (self.end or drawn_labels)(given, self.model, self.batches[number], self.seed + number)
            elif given.requires_grad:
                torch.autograd.backward(given, memory if step.is_memory else gradient)
        if held is not None and held.grad is not None:
            memory = held.grad if memory is None else memory + held.grad
        return hidden.grad, memory, watched.squares()


def single_windows(batches: Sequence[Batch]) -> list[Batch]:
    """Every window as a batch of its own, as squares of single windows' gradients want them."""
    return [
        Batch(
            batch.ids[place : place + 1],
            None if batch.sources is None else batch.sources[place : place + 1],
        )
        for batch in batches
        for place in range(len(batch.ids))
    ]


def drawn_labels(given: torch.Tensor, model: Architecture, _batch: Batch, seed: int) -> None:
    """Starts the way back at a network's output [batch, length, width], with tokens that it predicts."""
    generator = torch.Generator().manual_seed(seed)
    if model.task == "encoder":
        torch.autograd.backward(given, torch.randn(given.shape, generator=generator).to(given.device))
        return
    flat = given.reshape(-1, given.shape[-1])
    shares = flat.detach().softmax(-1).cpu()
    drawn = torch.multinomial(shares, 1, generator=generator)[:, 0].to(given.device)
    torch.autograd.backward(functional.cross_entropy(flat, drawn, reduction="sum"))


def _quiet() -> None:
    torch.set_num_threads(1)
