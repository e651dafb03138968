"""A decoder as torch programs with a static cache: what `torch.export` traces into a package.

Everything that varies is an input, weights included, so that all programs of a model share one file of
weights, and nothing in them says on which device they run. Keys and values live in caches [batch, kv_heads,
longest, head_dim] that a program writes in place. Rows are padded on the right, where causal attention does
not look, so a prompt needs no mask and takes the fused kernels of scaled_dot_product_attention.

What varies in size is read and written at positions, never as a slice up to a size: tracing cannot tell
whether such a slice fits, gives its length a symbol of its own, and AOTInductor of torch 2.11 writes code for
it that no compiler takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from ...model.blocks import parts
from .packing import INDEX, Packed, rope_names

if TYPE_CHECKING:
    from ...model.families import Architecture, Attention, Layer, Linear, Norm, Rope


@dataclass(frozen=True, eq=False)
class Held:
    """The weights by name, as norms and maps ask for them."""

    tensors: Mapping[str, torch.Tensor]

    def vector(self, name: str) -> torch.Tensor:
        """The scale or shift of a norm, float32."""
        return self.tensors[name]


@dataclass(eq=False)
class Place:
    """Where a call stands: its caches, and the position of each row's token; None for a prompt from 0 on."""

    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]
    positions: torch.Tensor | None
    # What every layer would make anew: the prompt's places, rotations by tables' names, masks by windows.
    first: torch.Tensor | None = None
    turns: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)


class Program(torch.nn.Module):
    """What the programs of one model have in common.

    names: of the weights, in the order in which they are given.  packed: how quantized weights are stored.
    is_step: rows are few, so that weights should be read once and not be written.
    """

    is_step = False

    def __init__(
        self, model: Architecture, names: Sequence[str], packed: Mapping[str, Packed], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.packed = dict(packed)
        self.dtype = dtype

    def _held(self, weights: Sequence[torch.Tensor]) -> Held:
        return Held(dict(zip(self.names, weights, strict=True)))

    def _hidden(self, held: Held, ids: torch.Tensor, place: Place) -> torch.Tensor:
        """int64 [batch, length] → what the head reads, float32 [batch, length, hidden]."""
        model, tensors = self.model, held.tensors
        packed = self.packed.get(model.embedding)
        state = packed.rows(tensors, ids) if packed else functional.embedding(ids, tensors[model.embedding])
        state = state * model.embedding_scale
        if model.embedding_in is not None:
            state = self._map(held, model.embedding_in, state)
        state = state.float()
        if model.position_embedding is not None:
            rows = self._places(ids, place) + model.position_offset
            state = state + functional.embedding(rows, tensors[model.position_embedding]).float()
        if model.embedding_norm is not None:
            state = self._norm(held, model.embedding_norm, state)
        for layer in model.layers:
            state = self._layer(held, layer, state, place)
        return self._norm(held, model.final_norm, state) if model.final_norm is not None else state

    def _logits(self, held: Held, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [batch, length, hidden] → float32 [batch, length, vocabulary]."""
        model = self.model
        if model.embedding_out is not None:
            hidden = self._map(held, model.embedding_out, hidden)
        hidden = hidden * model.head_scale
        if model.head is not None:
            logits = self._map(held, model.head, hidden).float()
        elif model.embedding in self.packed:
            multiply = self.packed[model.embedding]
            few = multiply.multiply_few if self.is_step else multiply.multiply
            logits = few(held.tensors, hidden.to(self.dtype)).float()
        else:
            logits = functional.linear(hidden.to(self.dtype), held.tensors[model.embedding]).float()
        if model.head_bias is not None:
            logits = logits + held.tensors[model.head_bias]
        if model.logit_softcap is not None:
            logits = model.logit_softcap * torch.tanh(logits / model.logit_softcap)
        return logits

    def _places(self, ids: torch.Tensor, place: Place) -> torch.Tensor:
        """The position of each token, [batch, 1] or [length]."""
        return _counted(ids, 1) if place.positions is None else place.positions[:, None]

    def _layer(self, held: Held, layer: Layer, state: torch.Tensor, place: Place) -> torch.Tensor:
        """Float32 [batch, length, hidden] → the same, as :meth:`Blocks.layer` computes it."""
        if self.model.parallel:
            both = self._attend(held, layer, self._norm(held, layer.attention_norm, state), place).float()
            both = both + self._forward(held, layer, self._norm(held, layer.feed_forward_norm, state))
            return state + both
        before = self.model.norm_first
        value = self._norm(held, layer.attention_norm, state) if before else state
        state = self._add(held, state, self._attend(held, layer, value, place), layer.attention_post_norm)
        state = state if before else self._norm(held, layer.attention_norm, state)
        value = self._norm(held, layer.feed_forward_norm, state) if before else state
        state = self._add(held, state, self._forward(held, layer, value), layer.feed_forward_post_norm)
        return state if before else self._norm(held, layer.feed_forward_norm, state)

    def _add(self, held: Held, state: torch.Tensor, update: torch.Tensor, post: Norm | None) -> torch.Tensor:
        # A sum with float32 is one, whatever it is added to.
        return state + (self._norm(held, post, update) if post is not None else update)

    def _norm(self, held: Held, form: Norm, value: torch.Tensor) -> torch.Tensor:
        return parts.norm(held, self.model, form, value)  # type: ignore[arg-type] # it asks for vectors alone

    def _map(self, held: Held, linear: Linear, value: torch.Tensor) -> torch.Tensor:
        """x Wᵀ + b in the compute dtype; codes become weights on the way."""
        value = self._cast(value)
        if linear.first is not None:
            before, linear = linear.weights
            value = self._map(held, before, value)
        bias = held.tensors[linear.bias] if linear.bias else None
        packed = self.packed.get(linear.name)
        if packed is None:
            return functional.linear(value, held.tensors[linear.name], bias)
        given = (packed.multiply_few if self.is_step else packed.multiply)(held.tensors, value)
        return given if bias is None else given + bias

    def _cast(self, value: torch.Tensor) -> torch.Tensor:
        """In the compute dtype; a conversion to what it is already would still be called."""
        return value if value.dtype == self.dtype else value.to(self.dtype)

    def _forward(self, held: Held, layer: Layer, value: torch.Tensor) -> torch.Tensor:
        form, kind = layer.feed_forward, self.model.activation
        assert not hasattr(form, "experts")  # noqa: S101 - refused before
        opened = self._map(held, form.up, value)
        if form.gate_in_up:
            gate, opened = opened.chunk(2, dim=-1)
            active = parts.activate(kind, gate) * opened
        elif form.gate is not None:
            active = parts.activate(kind, self._map(held, form.gate, value)) * opened
        else:
            active = parts.activate(kind, opened)
        return self._map(held, form.down, active)

    def _attend(self, held: Held, layer: Layer, value: torch.Tensor, place: Place) -> torch.Tensor:
        form = layer.attention
        rope = form.rope or self.model.rope
        both, states = self._projected(held, form, self._cast(value))
        if form.query_norm is not None or form.key_norm is not None:
            norms = (form.query_norm, form.key_norm)
            both = tuple(
                part if norm is None else self._cast(self._norm(held, norm, part))
                for part, norm in zip(self._split(both), norms, strict=True)
            )
        both = tuple(part.transpose(1, 2) for part in both)
        if rope is not None:
            both = tuple(self._rotated(held, rope, part, place) for part in both)
        query, key = self._split(both, axis=1)
        states = states.transpose(1, 2)
        if place.positions is None:
            mixed = self._prompt(form, (query, key, states), place, layer.index)
        else:
            mixed = self._token(held, form, (query, key, states), place, layer.index)
        return self._map(held, form.output, mixed)

    def _projected(
        self, held: Held, form: Attention, value: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Query and key, as one where they come from one map, and value: [batch, length, heads, head_dim]."""
        model, width = self.model, self.model.head_dim
        if len(form.inputs) > 1:
            query, key, states = (
                part.reshape(*part.shape[:2], -1, width)
                for part in (self._map(held, linear, value) for linear in form.inputs)
            )
            return (query, key), states
        whole = self._map(held, form.inputs[0], value)
        if form.interleaved:
            query, key, states = whole.reshape(*whole.shape[:2], model.heads, 3, width).unbind(-2)
            return (query, key), states
        heads = [model.heads + model.kv_heads, model.kv_heads]
        both, states = torch.split(whole.reshape(*whole.shape[:2], sum(heads), width), heads, dim=2)
        return (both,), states

    def _split(self, both: tuple[torch.Tensor, ...], axis: int = 2) -> tuple[torch.Tensor, ...]:
        """Query and key apart, whose heads lie along an axis."""
        if len(both) > 1:
            return both
        return torch.split(both[0], [self.model.heads, self.model.kv_heads], dim=axis)

    def _rotated(self, held: Held, rope: Rope, value: torch.Tensor, place: Place) -> torch.Tensor:
        """Rotates [batch, heads, length, head_dim] by each token's position, as :func:`parts.rotate` does."""
        names = rope_names(rope)
        if names not in place.turns:
            tables = [held.tensors[name] for name in names]
            if place.positions is None:
                rows = [table[_counted(value, 2)] for table in tables]
            else:
                rows = [table[place.positions][:, None, None] for table in tables]
            cosine, sine = (self._cast(torch.cat((each, each), dim=-1)) for each in rows)
            place.turns[names] = cosine, sine
        cosine, sine = place.turns[names]
        turned, rest = value, None
        if cosine.shape[-1] < value.shape[-1]:
            turned, rest = value.tensor_split((cosine.shape[-1],), dim=-1)
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cosine + torch.cat((-second, first), dim=-1) * sine
        return turned if rest is None else torch.cat((turned, rest), dim=-1)

    def _prompt(
        self, form: Attention, given: tuple[torch.Tensor, ...], place: Place, layer: int
    ) -> torch.Tensor:
        """Attention of a whole prompt to itself, which is kept in the cache from its first place on."""
        query, key, states = given
        if place.first is None:
            place.first = _counted(key, 2)
        place.keys[layer].index_copy_(2, place.first, key)
        place.values[layer].index_copy_(2, place.first, states)
        return parts.attend((query, key, states), form, causal=True, bias=None)

    def _token(
        self, held: Held, form: Attention, given: tuple[torch.Tensor, ...], place: Place, layer: int
    ) -> torch.Tensor:
        """Attention of one token a row to what the cache holds up to its position."""
        query, key, states = given
        batch, heads, _, width = query.shape
        kv_heads = key.shape[1]
        keys, values, positions = place.keys[layer], place.values[layer], place.positions
        assert positions is not None  # noqa: S101 - it is a step
        index = held.tensors[INDEX]
        where = (_counted(positions, 0)[:, None], index[None, :kv_heads], positions[:, None])
        keys.index_put_(where, key[:, :, 0])
        values.index_put_(where, states[:, :, 0])
        # Heads that share keys stand side by side, so that no key is copied for each of them.
        grouped = query.reshape(batch, kv_heads, heads // kv_heads, width)
        scores = (grouped @ keys.transpose(2, 3)).float() * form.scale
        if form.softcap is not None:
            scores = form.softcap * torch.tanh(scores / form.softcap)
        if form.window not in place.masks:
            places = index[None, : keys.shape[2]]
            hidden = places > positions[:, None]
            if form.window is not None:
                hidden = hidden | (places <= positions[:, None] - form.window)
            place.masks[form.window] = hidden[:, None, None]
        scores = scores.masked_fill(place.masks[form.window], float("-inf"))
        mixed = scores.softmax(-1).to(self.dtype) @ values
        return mixed.reshape(batch, 1, heads * width)


def _counted(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """0, 1, ... of an axis, int64."""
    return torch.arange(tensor.shape[axis], device=tensor.device)


class Prefill(Program):
    """Reads prompts and fills the caches with them."""

    def forward(
        self,
        weights: Sequence[torch.Tensor],
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        ids: torch.Tensor,
    ) -> torch.Tensor:
        """ids int64 [batch, length] → float32 [batch, length, hidden]."""
        return self._hidden(self._held(weights), ids, Place(keys, values, None))


class Head(Program):
    """The logits of chosen places of a prompt."""

    def forward(self, weights: Sequence[torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
        """Float32 [batch, places, hidden] → float32 [batch, places, vocabulary]."""
        return self._logits(self._held(weights), hidden)


class Decode(Program):
    """One token a row, at the position that is given for it."""

    is_step = True

    def forward(
        self,
        weights: Sequence[torch.Tensor],
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        ids: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """ids int64 [batch, 1], positions int64 [batch] → float32 [batch, 1, vocabulary]."""
        held = self._held(weights)
        return self._logits(held, self._hidden(held, ids, Place(keys, values, positions)))
