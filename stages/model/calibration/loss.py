"""What a text costs a network: the negative log-likelihood of its tokens, one block in memory at a time."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from ....artifacts.errors import InputError
from ..blocks.layer import finish
from ..blocks.network import Batch, State, Step, advance, steps
from ..blocks.tensors import BlockTensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..blocks.tensors import Readable
    from ..families import Architecture
    from .shelf import Shelf

HEAD = "head"


@dataclass(frozen=True)
class Loss:
    """nats: of all predicted tokens together.  tokens: how many they are."""

    nats: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats a token: the logarithm of perplexity."""
        return self.nats / self.tokens


def text_loss(
    model: Architecture, source: Readable, batches: Sequence[Batch], shelf: Shelf, threads: int
) -> Loss:
    """The loss of every token behind its window's first, all computed in float32.

    The same for any number of threads. It is infinite where a logit is not finite. Raises InputError for a
    network that predicts no tokens.
    """
    if model.task == "encoder":
        raise InputError(f"{model.model_type} is an encoder, which predicts no next token")
    torch.set_num_threads(1)
    states = [State(torch.empty(0)) for _ in batches]
    nats: list[float] = []
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for step in steps(model):
            tensors = BlockTensors(source, torch.device("cpu"), torch.float32)
            tensors.bring(step.linears)
            if step.name == HEAD and model.head is None:
                tensors.vector(model.embedding)

            def on(pair: tuple[Batch, State], step: Step = step, tensors: BlockTensors = tensors) -> State:
                batch, state = pair
                with torch.inference_mode():
                    given = finish(step.run(tensors, shelf.keep, batch, state))
                    if step.name == HEAD:
                        given = _loss_of(given, batch.ids)
                return advance(step, state.memory, given)

            states = list(pool.map(on, zip(batches, states, strict=True)))
            tensors.release()
        nats = [float(state.hidden) for state in states]
    tokens = sum(batch.ids.shape[0] * (batch.ids.shape[1] - 1) for batch in batches)
    total = math.fsum(nats) if all(map(math.isfinite, nats)) else math.inf
    return Loss(total, tokens)


def _loss_of(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """logits [batch, length, vocabulary], ids [batch, length] → the sum over predicted tokens, float64."""
    flat = logits[:, :-1].flatten(0, 1)
    return functional.cross_entropy(flat, ids[:, 1:].flatten(), reduction="none").double().sum()
