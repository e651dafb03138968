"""One layer as a coroutine: it stops at every input of linear maps, shows it, and goes on with their weights.

Whoever drives it may replace the maps' weights before it goes on, so that what follows is computed with them.
Driving all batches from stop to stop together gives a whole pass over the calibration text between one map
and the next, at the price of a single forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from ..families import Architecture, Linear, Mixture
from . import parts
from .tensors import BlockTensors

if TYPE_CHECKING:
    from ..families import Attention, FeedForward, Layer, Norm


Keep = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the coroutine stops at: linear maps, and the input that they share, [rows, in_features].

    Of an expert of a mixture the rows are those tokens that it was chosen for, possibly none.  onto: the
    state that the one map's output is added to as it is, [rows, hidden]; None where it is not.
    """

    linears: tuple[Linear, ...]
    inputs: torch.Tensor
    onto: torch.Tensor | None = None


# What is sent back, [rows, features], is what the maps are to read in place of their input; None leaves it.
Run = Generator[Seen, torch.Tensor | None, torch.Tensor]
Shown = Generator[Seen, torch.Tensor | None, torch.Tensor]


def finish(run: Run) -> torch.Tensor:
    """Takes a coroutine to its end without looking at anything; what it gives."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            result: torch.Tensor = end.value
            return result


@dataclass(frozen=True, eq=False)
class Blocks:
    """Runs the layers of one half of a network.

    What a coroutine names while it stops is held for every batch of a text at once. So whoever hands a tensor
    on to a part of the coroutine lets go of it first.

    keep: is given every tensor that is held while the coroutine stops, and gives what to hold in its place.
    """

    model: Architecture
    tensors: BlockTensors
    keep: Keep

    def layer(self, layer: Layer, state: torch.Tensor, memory: torch.Tensor | None = None) -> Run:
        """float32 [batch, length, hidden] → the same; memory: what an encoder made of the source."""
        if self.model.parallel:
            return (yield from self._parallel(layer, state))
        before = self.model.norm_first
        value = self._norm(layer.attention_norm, state) if before else state
        onto = None if layer.attention_post_norm else state
        run = self._attention(layer.attention, value, value, onto)
        del value, onto
        update = yield from run
        state = self._add(state, update, layer.attention_post_norm)
        state = state if before else self._norm(layer.attention_norm, state)
        if layer.cross_attention is not None and layer.cross_attention_norm is not None:
            value = self._norm(layer.cross_attention_norm, state) if before else state
            update = yield from self._attention(layer.cross_attention, value, memory, state)
            state = self._add(state, update, None)
            state = state if before else self._norm(layer.cross_attention_norm, state)
        del update
        state = self.keep(state)
        value = self._norm(layer.feed_forward_norm, state) if before else state
        onto = None if layer.feed_forward_post_norm else state
        run = self._feed_forward(layer.feed_forward, self._cast(value), onto)
        del value, onto
        update = yield from run
        state = self._add(state, update, layer.feed_forward_post_norm)
        return self.keep(state if before else self._norm(layer.feed_forward_norm, state))

    def apply(self, linear: Linear, value: torch.Tensor) -> torch.Tensor:
        """x Wᵀ + b in the tensors' dtype."""
        bias = self.tensors.vector(linear.bias).to(self.tensors.dtype) if linear.bias else None
        given = functional.linear(self._cast(value), self.tensors.matrix(linear), bias)
        return self.tensors.given(linear, given)

    def through(self, linear: Linear, value: torch.Tensor) -> Shown:
        """What :meth:`apply` gives; between the two maps of a factored one it stops."""
        if linear.first is not None:
            before, linear = linear.weights
            value = yield from self.show((linear,), self.apply(before, value))
        return self.apply(linear, value)

    def show(
        self, linears: tuple[Linear, ...], value: torch.Tensor, onto: torch.Tensor | None = None
    ) -> Shown:
        """Stops at the weights of linear maps that read ``value``, and gives it as it is held, or what
        is sent in its place.  onto: see :class:`Seen`.
        """
        value = self.keep(self._cast(value))
        entries = tuple(linear.entry for linear in linears)
        flat = None if onto is None or linears[0].first is not None else onto.reshape(-1, onto.shape[-1])
        sent = yield Seen(entries, value.flatten(0, -2), flat)
        return value if sent is None else sent.reshape(*value.shape[:-1], sent.shape[-1])

    def _cast(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.tensors.dtype)

    def _norm(self, form: Norm, value: torch.Tensor) -> torch.Tensor:
        return parts.norm(self.tensors, self.model, form, value)

    def _add(self, state: torch.Tensor, update: torch.Tensor, post: Norm | None) -> torch.Tensor:
        return state + (self._norm(post, update) if post else update.float())

    def _parallel(self, layer: Layer, state: torch.Tensor) -> Run:
        """Attention and feed-forward of the same state, whose inputs are one where their norms are."""
        value = self._norm(layer.attention_norm, state)
        forward = layer.feed_forward
        is_shared = layer.feed_forward_norm == layer.attention_norm and not isinstance(forward, Mixture)
        first = (*layer.attention.inputs, *(self._entries(forward) if is_shared else ()))
        value = yield from self.show(first, value)
        update = yield from self._attended(layer.attention, value, value, None)
        onto = state + update.float()
        if is_shared and not isinstance(forward, Mixture):
            added = yield from self._through(forward, value, onto)
        else:
            value = self._norm(layer.feed_forward_norm, state)
            added = yield from self._feed_forward(forward, self._cast(value), onto)
        return self.keep(onto + added.float())

    def _attention(
        self,
        form: Attention,
        value: torch.Tensor,
        source: torch.Tensor | None,
        onto: torch.Tensor | None,
    ) -> Shown:
        """source: what keys and values are made of; ``value`` itself but for cross-attention."""
        if source is value or source is None:
            shown = self.show(form.inputs, value)
            del value, source
            value = yield from shown
            run = self._attended(form, value, value, onto)
            del value, onto
            return (yield from run)
        value = yield from self.show(form.inputs[:1], value)
        source = yield from self.show(form.inputs[1:], source)
        return (yield from self._attended(form, value, source, onto))

    def _attended(
        self, form: Attention, value: torch.Tensor, source: torch.Tensor, onto: torch.Tensor | None
    ) -> Shown:
        run = self._mixed(form, value, source)
        del value, source
        shown = self.show((form.output,), (yield from run), onto)
        del onto
        mixed = yield from shown
        return (yield from self.through(form.output, mixed))

    def _mixed(self, form: Attention, value: torch.Tensor, source: torch.Tensor) -> Shown:
        model, is_self = self.model, source is value
        query, key, states = yield from self._projected(form, value, source)
        if form.query_norm is not None:
            query = self._cast(self._norm(form.query_norm, query))
        if form.key_norm is not None:
            key = self._cast(self._norm(form.key_norm, key))
        query, key, states = (part.transpose(1, 2) for part in (query, key, states))
        rope = form.rope or model.rope
        if rope is not None and is_self:
            cosine, sine = parts.rotations(rope, query.shape[2], query.device)
            query, key = parts.rotate(query, cosine, sine), parts.rotate(key, cosine, sine)
        bias, relative = None, model.relative_bias
        if relative is not None and is_self:
            table = self.tensors.vector(relative.table)
            bias = parts.distance_bias(relative, table, query.shape[2], key.shape[2], query.device)
        causal = is_self and model.task != "encoder"
        return parts.attend((query, key, states), form, causal=causal, bias=bias)

    def _projected(
        self, form: Attention, value: torch.Tensor, source: torch.Tensor
    ) -> Generator[Seen, torch.Tensor | None, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Query, key and value, [batch, length, heads, head_dim] each."""
        model = self.model
        width, heads = model.head_dim, (model.heads, model.kv_heads, model.kv_heads)
        if len(form.inputs) == 1:
            whole = yield from self.through(form.inputs[0], value)
            if form.interleaved:
                split = whole.reshape(*whole.shape[:-1], model.heads, 3, width).unbind(-2)
            else:
                split = torch.split(whole, [count * width for count in heads], dim=-1)
        else:
            split, stops = (), any(linear.first for linear in form.inputs)
            for linear, read in zip(form.inputs, (value, source, source), strict=True):
                given = yield from self.through(linear, read)
                split = (*split, self.keep(given) if stops else given)
        query, key, states = (
            part.reshape(*part.shape[:2], count, width) for part, count in zip(split, heads, strict=True)
        )
        return query, key, states

    def _feed_forward(
        self, form: FeedForward | Mixture, value: torch.Tensor, onto: torch.Tensor | None = None
    ) -> Shown:
        if isinstance(form, Mixture):
            return (yield from self._mixture(form, value))
        shown = self.show(self._entries(form), value)
        del value
        run = self._through(form, (yield from shown), onto)
        del onto
        return (yield from run)

    def _entries(self, form: FeedForward | Mixture) -> tuple[Linear, ...]:
        return () if isinstance(form, Mixture) else form.linears[:-1]

    def _through(self, form: FeedForward, value: torch.Tensor, onto: torch.Tensor | None) -> Shown:
        kind = self.model.activation
        opened = yield from self.through(form.up, value)
        if form.gate_in_up:
            gate, opened = opened.chunk(2, dim=-1)
            active = parts.activate(kind, gate) * opened
            del gate
        elif form.gate is not None:
            opened = self.keep(opened) if form.gate.first else opened
            gate = yield from self.through(form.gate, value)
            active = parts.activate(kind, gate) * opened
            del gate
        else:
            active = parts.activate(kind, opened)
        shown = self.show((form.down,), active, onto)
        del value, opened, active, onto
        return (yield from self.through(form.down, (yield from shown)))

    def _mixture(self, form: Mixture, value: torch.Tensor) -> Shown:
        """Each expert sees the rows that chose it; a row's results are added in the order of the experts."""
        rows = self.keep(value.reshape(-1, value.shape[-1]))
        shares = self._gate(form.router, rows).softmax(-1)
        weights, chosen = shares.topk(form.chosen, dim=-1)
        if form.normalized:
            weights = weights / weights.sum(-1, keepdim=True)
        mixed = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
        for number, expert in enumerate(form.experts):
            taken, place = torch.nonzero(chosen == number, as_tuple=True)
            update = yield from self._feed_forward(expert, rows[taken])
            mixed.index_add_(0, taken, update.float() * weights[taken, place, None])
        if form.shared is not None:
            update = yield from self._feed_forward(form.shared, rows)
            if form.shared_gate is not None:
                update = update.float() * self._gate(form.shared_gate, rows).sigmoid()
            mixed += update.float()
        return mixed.reshape(value.shape)

    def _gate(self, linear: Linear, rows: torch.Tensor) -> torch.Tensor:
        """Routers decide in float32: they are small, and a rounded logit is another expert."""
        return functional.linear(rows.float(), self.tensors.original(linear).to(rows.device))
