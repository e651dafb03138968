"""An :class:`Architecture` as a torch module that traces without a branch, for ExecuTorch and TorchScript.

Every map is a `torch.nn.Linear` [out, in], whichever way the checkpoint stores it, so that quantizers and
delegates find all of them. One row at a time: a phone has one conversation. A language model keeps keys and
values in buffers of a fixed length, which positions index, so that one method serves prompt and decoding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ....artifacts.errors import InputError
from ...model.blocks import parts
from ...model.families import Mixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...model.families import Architecture, Attention, FeedForward, Layer, Linear, Norm, Rope
    from ...model.families.architecture import Activation

    # What stands for a linear map: given the map, a module [..., in] → [..., out].
    MakeLinear = Callable[[Linear], torch.nn.Module]
    # A tensor of the checkpoint in float32.
    Read = Callable[[str], torch.Tensor]


def check_supported(model: Architecture) -> None:
    """Raises InputError for networks that this module does not compute, with what they are made of."""
    found = None
    if model.task == "seq2seq-lm":
        found = "an encoder-decoder"
    elif any(isinstance(layer.feed_forward, Mixture) for layer in model.layers):
        found = "a mixture of experts"
    elif model.relative_bias is not None:
        found = "attention biased by distance"
    if found:
        raise InputError(
            f"{model.model_type} is {found}, which is not lowered for phones",
            fix="use export.onnx_mobile, which writes it",
        )


class Network(torch.nn.Module):
    """float32. cached: a language model's keys and values are kept; `length` of them, tokens.

    Without a cache: ids [1, tokens] → logits or hidden states [1, tokens, width]. With one: ids and their
    positions int64 [tokens] → logits of those tokens; what is at later positions is not seen.
    """

    def __init__(
        self, model: Architecture, read: Read, make: MakeLinear, embedding: torch.nn.Module, *,
        length: int, cached: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        check_supported(model)
        self.model = model
        self.embedding = embedding
        self.embedding_in = make(model.embedding_in) if model.embedding_in else None
        self.embedding_out = make(model.embedding_out) if model.embedding_out else None
        places = None
        if model.position_embedding is not None:
            places = torch.nn.Parameter(read(model.position_embedding)[: length + model.position_offset])
        self.places = places
        kinds = model.token_type_embedding
        self.kind = torch.nn.Parameter(read(kinds)[0]) if kinds is not None else None
        self.embedding_norm = _norm(model, model.embedding_norm, read)
        self.final_norm = _norm(model, model.final_norm, read)
        self.layers = torch.nn.ModuleList(
            _Layer(model, layer, read, make, length=length, cached=cached) for layer in model.layers
        )
        self.head = make(model.head or _table(model)) if model.task == "causal-lm" else None
        bias = model.head_bias
        self.head_bias = torch.nn.Parameter(read(bias).reshape(-1)) if bias is not None else None
        for number, rope in enumerate(_ropes(model)):
            cosine, sine = parts.rotations(rope, length, torch.device("cpu"))
            self.register_buffer(f"cosine{number}", cosine)
            self.register_buffer(f"sine{number}", sine)
        self.requires_grad_(requires_grad=False)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        model = self.model
        count = ids.shape[1]
        if positions is None:
            positions = torch.arange(count, dtype=torch.int64)
        state = self.embedding(ids)
        if model.embedding_scale != 1:
            state = state * model.embedding_scale
        if self.embedding_in is not None:
            state = self.embedding_in(state)
        if self.kind is not None:
            state = state + self.kind
        if self.places is not None:
            state = state + functional.embedding(self._rows(ids, positions), self.places)
        if self.embedding_norm is not None:
            state = self.embedding_norm(state)
        turns = [
            (getattr(self, f"cosine{number}")[positions], getattr(self, f"sine{number}")[positions])
            for number in range(len(_ropes(model)))
        ]
        for layer in self.layers:
            state = layer(state, positions, turns)
        if self.final_norm is not None:
            state = self.final_norm(state)
        return self._logits(state)

    def _rows(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rows of the position embedding, [1, tokens]."""
        model = self.model
        if model.position_padding is None:
            return (positions + model.position_offset)[None]
        counted = (ids != model.position_padding).to(torch.int64)
        return torch.cumsum(counted, 1) * counted + model.position_offset - 1

    def _logits(self, state: torch.Tensor) -> torch.Tensor:
        model = self.model
        if self.embedding_out is not None:
            state = self.embedding_out(state)
        if self.head is None:
            return state
        if model.head_scale != 1:
            state = state * model.head_scale
        logits: torch.Tensor = self.head(state)
        if self.head_bias is not None:
            logits = logits + self.head_bias
        if model.logit_softcap is not None:
            logits = model.logit_softcap * torch.tanh(logits / model.logit_softcap)
        return logits


class _Layer(torch.nn.Module):
    """One block; where its norms stand is the architecture's to say."""

    def __init__(
        self, model: Architecture, layer: Layer, read: Read, make: MakeLinear, *, length: int, cached: bool
    ) -> None:
        super().__init__()
        self.before, self.parallel = model.norm_first, model.parallel
        self.attention = _Attention(model, layer.attention, read, make, length=length, cached=cached)
        if isinstance(layer.feed_forward, Mixture):
            raise InputError("a mixture of experts is not lowered for phones")
        self.feed_forward = _FeedForward(model, layer.feed_forward, make)
        self.attention_norm = _norm(model, layer.attention_norm, read)
        self.feed_forward_norm = _norm(model, layer.feed_forward_norm, read)
        self.attention_post = _norm(model, layer.attention_post_norm, read)
        self.feed_forward_post = _norm(model, layer.feed_forward_post_norm, read)

    def forward(self, state: torch.Tensor, positions: torch.Tensor, turns: list[Any]) -> torch.Tensor:
        """[1, tokens, hidden] → the same."""
        if self.parallel:
            update: torch.Tensor = self.attention(_apply(self.attention_norm, state), positions, turns)
            added: torch.Tensor = self.feed_forward(_apply(self.feed_forward_norm, state))
            return state + (update + added)
        value = _apply(self.attention_norm, state) if self.before else state
        state = state + _apply(self.attention_post, self.attention(value, positions, turns))
        state = state if self.before else _apply(self.attention_norm, state)
        value = _apply(self.feed_forward_norm, state) if self.before else state
        state = state + _apply(self.feed_forward_post, self.feed_forward(value))
        return state if self.before else _apply(self.feed_forward_norm, state)


class _Attention(torch.nn.Module):
    """Attention of the new tokens to all that are kept, or among themselves where nothing is."""

    def __init__(
        self, model: Architecture, form: Attention, read: Read, make: MakeLinear, *, length: int, cached: bool
    ) -> None:
        super().__init__()
        self.model, self.form = model, form
        self.inputs = torch.nn.ModuleList(make(linear) for linear in form.inputs)
        self.output = make(form.output)
        self.query_norm = _norm(model, form.query_norm, read)
        self.key_norm = _norm(model, form.key_norm, read)
        rope = form.rope or model.rope
        self.turn = _ropes(model).index(rope) if rope is not None else None
        self.causal = model.task == "causal-lm"
        self.cached = cached and self.causal
        if self.cached:
            shape = (1, model.kv_heads, length, model.head_dim)
            self.register_buffer("keys", torch.zeros(shape))
            self.register_buffer("states", torch.zeros(shape))
            self.register_buffer("kept", torch.arange(length))

    def forward(self, value: torch.Tensor, positions: torch.Tensor, turns: list[Any]) -> torch.Tensor:
        """[1, tokens, hidden] → the same."""
        query, key, states = self._projected(value)
        query, key = _apply(self.query_norm, query), _apply(self.key_norm, key)
        query, key, states = (part.transpose(1, 2) for part in (query, key, states))
        if self.turn is not None:
            query, key = (parts.rotate(part, *turns[self.turn]) for part in (query, key))
        seen = positions
        if self.cached:
            self.keys.index_copy_(2, positions, key)  # type: ignore[operator]
            self.states.index_copy_(2, positions, states)  # type: ignore[operator]
            key, states, seen = self.keys, self.states, self.kept  # type: ignore[assignment]
        groups = self.model.heads // self.model.kv_heads
        if groups > 1:
            key, states = (_spread(part, groups) for part in (key, states))
        mixed = self._mixed(query, key, states, positions, seen)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _mixed(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        states: torch.Tensor,
        rows: torch.Tensor,
        seen: torch.Tensor,
    ) -> torch.Tensor:
        form = self.form
        scores = (query * form.scale) @ key.transpose(2, 3)
        if form.softcap is not None:
            scores = form.softcap * torch.tanh(scores / form.softcap)
        if self.causal:
            hidden = seen[None, :] > rows[:, None]
            if form.window is not None:
                hidden = hidden | (seen[None, :] <= rows[:, None] - form.window)
            scores = scores.masked_fill(hidden, -math.inf)
        return scores.softmax(-1) @ states

    def _projected(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        model, width = self.model, self.model.head_dim
        counts = (model.heads, model.kv_heads, model.kv_heads)
        if len(self.inputs) > 1:
            split = tuple(linear(value) for linear in self.inputs)
        else:
            whole = self.inputs[0](value)
            if self.form.interleaved:
                split = whole.reshape(1, -1, model.heads, 3, width).unbind(-2)
            else:
                split = torch.split(whole, [count * width for count in counts], dim=-1)
        query, key, states = (
            part.reshape(1, -1, count, width) for part, count in zip(split, counts, strict=True)
        )
        return query, key, states


class _FeedForward(torch.nn.Module):
    def __init__(self, model: Architecture, form: FeedForward, make: MakeLinear) -> None:
        super().__init__()
        self.kind, self.gate_in_up = model.activation, form.gate_in_up
        self.up, self.down = make(form.up), make(form.down)
        self.gate = make(form.gate) if form.gate else None

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """[1, tokens, hidden] → the same."""
        opened = self.up(value)
        if self.gate_in_up:
            gate, opened = opened.chunk(2, dim=-1)
            opened = _activate(self.kind, gate) * opened
        elif self.gate is not None:
            opened = _activate(self.kind, self.gate(value)) * opened
        else:
            opened = _activate(self.kind, opened)
        return self.down(opened)  # type: ignore[no-any-return]


def _activate(kind: Activation, value: torch.Tensor) -> torch.Tensor:
    """The activation; XNNPACK's own of GELU by tanh is off by a thousandth, so it is spelled out."""
    if kind != "gelu_tanh":
        return parts.activate(kind, value)
    inner = math.sqrt(2 / math.pi) * (value + 0.044715 * (value * value * value))
    return 0.5 * value * (1 + torch.tanh(inner))


class _Norm(torch.nn.Module):
    def __init__(self, model: Architecture, form: Norm, read: Read) -> None:
        super().__init__()
        scale = read(form.weight)
        self.is_layer, self.eps = model.norm == "layer", model.norm_eps
        self.scale = torch.nn.Parameter(scale + 1.0 if model.norm == "rms_above_one" else scale)
        self.shift = torch.nn.Parameter(read(form.bias)) if form.bias else None

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Over the last axis."""
        if self.is_layer:
            return functional.layer_norm(value, self.scale.shape, self.scale, self.shift, self.eps)
        # Spelled out: delegates have a kernel for each of these, and none for the norm.
        mean = (value * value).mean(-1, keepdim=True)
        return value * torch.rsqrt(mean + self.eps) * self.scale


def _norm(model: Architecture, form: Norm | None, read: Read) -> torch.nn.Module | None:
    return _Norm(model, form, read) if form is not None else None


def _apply(module: torch.nn.Module | None, value: torch.Tensor) -> torch.Tensor:
    return value if module is None else module(value)


def _ropes(model: Architecture) -> list[Rope]:
    """The rotations of a network, each once."""
    every = (layer.attention.rope or model.rope for layer in model.layers)
    found: list[Rope] = []
    for rope in every:
        if rope is not None and rope not in found:
            found.append(rope)
    return found


def _spread(part: torch.Tensor, groups: int) -> torch.Tensor:
    """[1, kv_heads, n, width] → [1, heads, n, width], each head beside the others of its group."""
    return part.repeat_interleave(groups, dim=1)


def _table(model: Architecture) -> Linear:
    """The token embedding as the head that it also is."""
    from ...model.families import Linear

    return Linear(model.embedding, "lm_head", model.vocabulary, model.embedding_width)
