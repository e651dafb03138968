"""A network as the steps of a walk: from tokens to states, through the layers, and from states to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..families import Linear
from . import parts
from .layer import Blocks, Keep, Run
from .tensors import BlockTensors

if TYPE_CHECKING:
    from ..families import Architecture, Layer


@dataclass(frozen=True, eq=False)
class Batch:
    """Token ids int64 [batch, length] of windows of one length; sources: of the same number of pairs."""

    ids: torch.Tensor
    sources: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class State:
    """What a batch has become: float32 [batch, length, hidden].

    memory: what an encoder made of its source.
    """

    hidden: torch.Tensor
    memory: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the walk. run: the coroutine that takes a batch and its state on; see `layer.py`.

    linears: the maps that it stops at.    is_memory: what it gives is what a decoder attends to.
    """

    name: str
    run: Callable[[BlockTensors, Keep, Batch, State], Run]
    linears: tuple[Linear, ...] = ()
    is_memory: bool = False


def steps(model: Architecture) -> Iterator[Step]:
    """The steps of a network in the order of computation, an encoder's before those of its decoder."""
    if model.encoder is not None:
        yield from _half(model.encoder, "encoder.", of_source=True)
        yield Step("encoder.end", partial(_finish, model.encoder), is_memory=True)
    yield from _half(model, "", of_source=False)
    head = model.head.weights if model.head else ()
    yield Step("head", partial(_head, model), (*_present(model.embedding_out), *head))


def advance(step: Step, memory: torch.Tensor | None, found: torch.Tensor) -> State:
    """The state behind a step that gave ``found``; memory: that of the state before it."""
    return State(found, found if step.is_memory else memory)


def _half(model: Architecture, prefix: str, *, of_source: bool) -> Iterator[Step]:
    yield Step(f"{prefix}embedding", partial(_enter, model, of_source), _present(model.embedding_in))
    for layer in model.layers:
        yield Step(f"{prefix}layers.{layer.index}", partial(_layer, model, layer, of_source), layer.linears)


def _present(*linears: Linear | None) -> tuple[Linear, ...]:
    return tuple(linear for linear in linears if linear is not None)


def _enter(
    model: Architecture, of_source: bool, tensors: BlockTensors, keep: Keep, batch: Batch, _state: State
) -> Run:
    ids = batch.sources if of_source and batch.sources is not None else batch.ids
    return _embed(Blocks(model, tensors, keep), ids)


def _layer(
    model: Architecture,
    layer: Layer,
    of_source: bool,
    tensors: BlockTensors,
    keep: Keep,
    _batch: Batch,
    state: State,
) -> Run:
    return Blocks(model, tensors, keep).layer(layer, state.hidden, None if of_source else state.memory)


def _embed(blocks: Blocks, ids: torch.Tensor) -> Run:
    """int64 [batch, length] → float32 [batch, length, hidden]."""
    model, tensors = blocks.model, blocks.tensors
    state = tensors.rows(model.embedding, ids) * model.embedding_scale
    if model.embedding_in is not None:
        state = yield from blocks.show((model.embedding_in,), state)
        state = blocks.apply(model.embedding_in, state).float()
    if model.token_type_embedding is not None:
        state = state + tensors.vector(model.token_type_embedding)[0]
    if model.position_embedding is not None:
        first = model.position_offset
        state = state + tensors.vector(model.position_embedding)[first : first + ids.shape[1]]
    if model.embedding_norm is not None:
        state = parts.norm(tensors, model, model.embedding_norm, state)
    return blocks.keep(state)


def _finish(model: Architecture, tensors: BlockTensors, keep: Keep, _batch: Batch, state: State) -> Run:
    yield from ()  # a coroutine like the others, though it has nothing to show
    found = state.hidden
    return keep(parts.norm(tensors, model, model.final_norm, found) if model.final_norm else found)


def _head(model: Architecture, tensors: BlockTensors, keep: Keep, _batch: Batch, state: State) -> Run:
    blocks, found = Blocks(model, tensors, keep), state.hidden
    if model.final_norm is not None:
        found = parts.norm(tensors, model, model.final_norm, found)
    if model.embedding_out is not None:
        found = yield from blocks.show((model.embedding_out,), found)
        found = blocks.apply(model.embedding_out, found).float()
    if model.task == "encoder":
        return found
    found = found * model.head_scale
    if model.head is not None:
        found = yield from blocks.show((model.head,), found)
        logits = (yield from blocks.through(model.head, found)).float()
    else:
        logits = found @ tensors.vector(model.embedding).T
    if model.head_bias is not None:
        logits = logits + tensors.vector(model.head_bias)
    if model.logit_softcap is not None:
        logits = model.logit_softcap * torch.tanh(logits / model.logit_softcap)
    return logits
