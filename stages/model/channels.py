"""What goes with a channel when it goes: the groups of a network that structured pruning takes channels from.

A group is a set of channels of one kind, and for each tensor that they pass through where they stand in it:

=========  =========================================  =====================================================
kind       a channel                                  what goes with it
=========  =========================================  =====================================================
ffn        a feature between the entries and the      its row in the entry, and in the gate or the gate's
           exit of a feed-forward                     half of a fused entry, their biases; its column in
                                                      the exit
heads      a key-value head with the query heads      their rows in the maps of query, key and value, apart
           that share it; where all share one, a      or in one map, whole or head by head, and the biases;
           query head                                 their columns in the output map; of T5 the column in
                                                      the table of distances, which all layers share
experts    an expert of a mixture                     its maps; its row in the router
hidden     a feature of the state that layers add to  its column in embeddings and in all maps that read the
                                                      state, routers and heads among them; its row in those
                                                      that write it, and their biases; its gain in norms
=========  =========================================  =====================================================

Where weights are stored as [in, out], rows and columns change places. Norms of each query's and key's head
have the width of a head and stay. Transformers gives all layers one width, so groups whose width one key of
the config states keep equally many channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .families import Architecture, Linear, Mixture

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    from .families import Attention, FeedForward, Layer, Norm

    Indices = npt.NDArray[np.int64]

Kind = Literal["ffn", "heads", "experts", "hidden"]


@dataclass(frozen=True)
class Span:
    """Where channels stand in a tensor as it is stored.

    Channel c is its ``width`` entries along ``axis`` from first + c · stride on.
    """

    tensor: str
    axis: int
    first: int = 0
    width: int = 1
    stride: int = 1

    def entries(self, channels: Collection[int]) -> set[int]:
        """The places along the axis that are of ``channels``."""
        starts = (self.first + channel * self.stride for channel in channels)
        return {start + place for start in starts for place in range(self.width)}


@dataclass(frozen=True)
class Group:
    """Channels of one kind. label: what it is called in evidence.  layer: None where it is of several.

    count: its channels.  readers: the maps that take the channels up, ``width`` inputs for each in turn; of
    experts their exits.  key: of the config, which states the count; groups of one key have one width.
    members: of experts, the tensors that each has for itself.
    """

    kind: Kind
    label: str
    layer: int | None
    count: int
    spans: tuple[Span, ...]
    readers: tuple[Linear, ...]
    width: int
    key: str
    members: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Keys:
    """What a config calls widths. ffn, heads: of a network's own half.  expert, shared: features in mixtures.

    head_dim: the width of a head, where a config states it.
    """

    ffn: str = "intermediate_size"
    heads: str = "num_attention_heads"
    kv_heads: str = "num_key_value_heads"
    head_dim: str = "head_dim"
    hidden: str = "hidden_size"
    expert: str = "intermediate_size"
    shared: str = "shared_expert_intermediate_size"


USUAL = Keys()
_QWEN_MOE = Keys(expert="moe_intermediate_size")
_T5 = Keys(ffn="d_ff", heads="num_heads", head_dim="d_kv", hidden="d_model")
# By model_type, where they are called otherwise; of encoder-decoders with two widths, those of the decoder.
KEYS: Mapping[str, Keys] = {
    "bart": Keys(ffn="decoder_ffn_dim", heads="decoder_attention_heads"),
    "distilbert": Keys(ffn="hidden_dim", heads="n_heads"),
    "gpt2": Keys(ffn="n_inner", heads="n_head"),
    "mt5": _T5,
    "opt": Keys(ffn="ffn_dim"),
    "qwen2_moe": _QWEN_MOE,
    "qwen3_moe": _QWEN_MOE,
    "t5": _T5,
}
ENCODER_KEYS: Mapping[str, Keys] = {
    **KEYS,
    "bart": Keys(ffn="encoder_ffn_dim", heads="encoder_attention_heads"),
}


def groups(model: Architecture, kind: Kind) -> tuple[Group, ...]:
    """Every group of a kind, in the order of computation; the state is a single one."""
    if kind == "hidden":
        return (_hidden(model),)
    found: list[Group] = []
    for half in (model.encoder, model):
        if half is not None:
            side = "" if model.encoder is None else "encoder." if half is model.encoder else "decoder."
            found += {"ffn": _ffn, "heads": _heads, "experts": _experts}[kind](half, side)
    return tuple(found)


def kept_places(
    chosen: Iterable[tuple[Group, Collection[int]]], sizes: Callable[[str], tuple[int, ...]]
) -> dict[str, dict[int, Indices]]:
    """By tensor and axis, the places that stay.

    chosen: of each group, the channels that stay.  sizes: gives the shape of a tensor as it is stored.
    """
    import numpy as np

    gone: dict[tuple[str, int], set[int]] = {}
    for group, channels in chosen:
        left_out = set(range(group.count)) - set(channels)
        for span in group.spans:
            gone.setdefault((span.tensor, span.axis), set()).update(span.entries(left_out))
    found: dict[str, dict[int, Indices]] = {}
    for (name, axis), places in gone.items():
        stays = np.setdiff1d(np.arange(sizes(name)[axis]), np.fromiter(places, np.int64))
        found.setdefault(name, {})[axis] = stays
    return found


def _keys(model: Architecture, side: str) -> Keys:
    return (ENCODER_KEYS if side == "encoder." else KEYS).get(model.model_type, USUAL)


def _rows(linear: Linear, first: int = 0, width: int = 1, stride: int | None = None) -> Iterator[Span]:
    """Outputs of a map, and of its bias."""
    stride = width if stride is None else stride
    yield Span(linear.name, int(linear.stored_in_out), first, width, stride)
    if linear.bias is not None:
        yield Span(linear.bias, 0, first, width, stride)


def _columns(linear: Linear, width: int = 1) -> Span:
    """Inputs of a map."""
    return Span(linear.name, 1 - int(linear.stored_in_out), 0, width, width)


def _ffn(model: Architecture, side: str) -> Iterator[Group]:
    keys = _keys(model, side)
    for layer in model.layers:
        label = f"{side}layers.{layer.index}"
        form = layer.feed_forward
        if isinstance(form, Mixture):
            for number, expert in enumerate(form.experts):
                yield _between(expert, f"{label}.experts.{number}", layer, keys.expert)
            if form.shared is not None:
                yield _between(form.shared, f"{label}.shared_expert", layer, keys.shared)
        else:
            yield _between(form, f"{label}.feed_forward", layer, keys.ffn)


def _between(form: FeedForward, label: str, layer: Layer, key: str) -> Group:
    count = form.down.in_features
    spans = [*_rows(form.up)]
    if form.gate_in_up:
        spans += _rows(form.up, first=count)
    elif form.gate is not None:
        spans += _rows(form.gate)
    return Group("ffn", label, layer.index, count, (*spans, _columns(form.down)), (form.down,), 1, key)


def _heads(model: Architecture, side: str) -> Iterator[Group]:
    key = _keys(model, side).heads
    shared: list[tuple[Attention, str]] = []
    for layer in model.layers:
        label = f"{side}layers.{layer.index}"
        if model.relative_bias is None:
            yield _of_attention(model, layer.attention, f"{label}.attention", layer.index, key)
        else:
            shared.append((layer.attention, label))
        if layer.cross_attention is not None:
            yield _of_attention(model, layer.cross_attention, f"{label}.cross_attention", layer.index, key)
    if model.relative_bias is not None:
        parts = [_of_attention(model, form, label, None, key) for form, label in shared]
        spans = [span for part in parts for span in part.spans]
        spans.append(Span(model.relative_bias.table, 1))
        readers = tuple(reader for part in parts for reader in part.readers)
        yield Group(
            "heads", f"{side}attention", None, model.heads, tuple(spans), readers, model.head_dim, key
        )


def _of_attention(model: Architecture, form: Attention, label: str, layer: int | None, key: str) -> Group:
    dim, per = model.head_dim, model.heads // model.kv_heads
    if is_multi_query(model):
        spans = [*_rows(form.inputs[0], width=dim)]
        return Group(
            "heads", label, layer, model.heads, (*spans, _columns(form.output, dim)), (form.output,), dim, key
        )
    if form.interleaved:
        spans = [*_rows(form.inputs[0], width=3 * dim)]
    elif len(form.inputs) == 1:
        whole, first = form.inputs[0], 0
        spans = []
        for heads, width in ((model.heads, per * dim), (model.kv_heads, dim), (model.kv_heads, dim)):
            spans += _rows(whole, first, width)
            first += heads * dim
    else:
        query, key_map, value = form.inputs
        spans = [*_rows(query, width=per * dim), *_rows(key_map, width=dim), *_rows(value, width=dim)]
    spans.append(_columns(form.output, per * dim))
    return Group("heads", label, layer, model.kv_heads, tuple(spans), (form.output,), per * dim, key)


def _experts(model: Architecture, side: str) -> Iterator[Group]:
    for layer in model.layers:
        form = layer.feed_forward
        if isinstance(form, Mixture):
            members = tuple(
                tuple(name for linear in expert.linears for name in (linear.name, linear.bias) if name)
                for expert in form.experts
            )
            rows, exits = tuple(_rows(form.router)), tuple(expert.down for expert in form.experts)
            label = f"{side}layers.{layer.index}.experts"
            yield Group("experts", label, layer.index, len(exits), rows, exits, 0, "experts", members)


def _hidden(model: Architecture) -> Group:
    spans: dict[Span, None] = {}
    readers: dict[Linear, None] = {}
    for half in (model.encoder, model):
        if half is None:
            continue
        for table in (half.embedding, half.position_embedding, half.token_type_embedding):
            spans |= {Span(table, 1): None} if table else {}
        for norm in norms(half):
            spans |= {Span(name, 0): None for name in (norm.weight, norm.bias) if name}
        for layer in half.layers:
            entries, exits = entries_and_exits(layer)
            readers |= dict.fromkeys(entries)
            spans |= dict.fromkeys(span for linear in exits for span in _rows(linear))
        routers = [linear for linear in half.gates if linear.layer is not None]
        spans |= dict.fromkeys(_columns(linear) for linear in routers)
        readers |= {half.head: None} if half.head else {}
    spans |= dict.fromkeys(_columns(linear) for linear in readers)
    key = keys_of(model).hidden
    return Group("hidden", "state", None, model.hidden, tuple(spans), tuple(readers), 1, key)


def norms(half: Architecture) -> Iterator[Norm]:
    """Every norm of one half of a network that is as wide as the state."""
    for layer in half.layers:
        each = (
            layer.attention_norm, layer.attention_post_norm, layer.cross_attention_norm,
            layer.feed_forward_norm, layer.feed_forward_post_norm,
        )  # fmt: skip
        yield from (norm for norm in each if norm)
    yield from (norm for norm in (half.embedding_norm, half.final_norm) if norm)


def entries_and_exits(layer: Layer) -> tuple[list[Linear], list[Linear]]:
    """The maps of a layer that read the state, routers apart, and those that write it."""
    entries: list[Linear] = []
    exits: list[Linear] = []
    for attention in (layer.attention, layer.cross_attention):
        if attention is not None:
            entries += attention.inputs
            exits.append(attention.output)
    for block in layer.feed_forward.blocks:
        entries += block.linears[:-1]
        exits.append(block.down)
    return entries, exits


def is_multi_query(model: Architecture) -> bool:
    """Whether all query heads share one head of keys and values, so that each can go by itself."""
    return model.kv_heads == 1 and model.heads > 1


def keys_of(model: Architecture) -> Keys:
    """What the config of a network calls its widths."""
    return KEYS.get(model.model_type, USUAL)
