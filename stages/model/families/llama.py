"""Llama and its kin: rotary positions, root-mean-square norms, gated feed-forward; Mistral, Qwen2, Qwen3.

They differ in where biases stand (Qwen2: query, key, value), in norms of each head's query and key (Qwen3),
and in attention windows (Mistral).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .architecture import Architecture, Attention, FeedForward, Layer, Linear, Norm
from .config import ConfigReader
from .rope import USUAL, RopeKeys, rope


@dataclass(frozen=True)
class Variant:
    """What tells one member of the kin from another; functions ask the config.

    activation: the key of the feed-forward's and its default.  tied: whether the head is the embedding where
    the config does not say.
    """

    accepted: str
    input_bias: Callable[[ConfigReader], bool]
    output_bias: Callable[[ConfigReader], bool]
    mlp_bias: Callable[[ConfigReader], bool]
    head_norms: bool
    windowed: Callable[[ConfigReader, int], bool]
    activation: tuple[str, str] = ("hidden_act", "silu")
    tied: bool = False
    rope: RopeKeys = USUAL


def never(_reader: ConfigReader) -> bool:
    """No member of the kin of that sort has it."""
    return False


def attention_bias(reader: ConfigReader) -> bool:
    """Whether the config asks for biases around attention."""
    return reader.flag("attention_bias", False)


def _qwen_window(reader: ConfigReader, index: int) -> bool:
    return reader.flag("use_sliding_window", False) and index >= reader.integer("max_window_layers", 28)


LLAMA = Variant(
    "LlamaForCausalLM", attention_bias, attention_bias,
    lambda reader: reader.flag("mlp_bias", False), False, lambda _reader, _index: False,
)  # fmt: skip
MISTRAL = Variant("MistralForCausalLM", never, never, never, False, lambda _reader, _index: True)
QWEN2 = Variant("Qwen2ForCausalLM", lambda _reader: True, never, never, False, _qwen_window)
QWEN3 = Variant("Qwen3ForCausalLM", attention_bias, attention_bias, never, True, _qwen_window)


def llama(reader: ConfigReader, variant: Variant = LLAMA) -> Architecture:
    """The architecture that a config of this kin describes."""
    reader.check_class((variant.accepted,))
    hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    if reader.config.get("head_dim") is None and hidden % heads:
        raise reader.error("hidden_size", f"is not a multiple of num_attention_heads, {heads}")
    head_dim = reader.integer("head_dim", max(hidden // heads, 1))
    kv_heads = reader.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise reader.error("num_key_value_heads", f"does not divide num_attention_heads, {heads}")
    count, vocabulary = reader.integer("num_hidden_layers"), reader.integer("vocab_size")
    windows = reader.windows(count, lambda index: variant.windowed(reader, index))
    tied = reader.flag("tie_word_embeddings", variant.tied)
    shape = _Shape(hidden, heads * head_dim, kv_heads * head_dim, reader.integer("intermediate_size"))
    return Architecture(
        model_type=str(reader.config["model_type"]),
        task="causal-lm",
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=reader.integer("max_position_embeddings"),
        activation=reader.activation(*variant.activation),
        norm="rms",
        norm_eps=reader.number("rms_norm_eps", 1e-6),
        norm_first=True,
        embedding="model.embed_tokens.weight",
        layers=tuple(
            _layer(reader, variant, index, shape, head_dim**-0.5, windows[index]) for index in range(count)
        ),
        rope=rope(reader, head_dim, variant.rope),
        final_norm=Norm("model.norm.weight"),
        head=None if tied else Linear("lm_head.weight", "lm_head", vocabulary, hidden),
        tied=tied,
        ignored=("*.rotary_emb.inv_freq", *(("lm_head.weight",) if tied else ())),
    )


def mistral(reader: ConfigReader) -> Architecture:
    """Mistral: Llama without biases, every layer seeing `sliding_window` positions where that is set."""
    return llama(reader, MISTRAL)


def qwen2(reader: ConfigReader) -> Architecture:
    """Qwen2 and Qwen2.5: Llama with biases on query, key and value."""
    return llama(reader, QWEN2)


def qwen3(reader: ConfigReader) -> Architecture:
    """Qwen3: Llama with a norm on each head's query and key."""
    return llama(reader, QWEN3)


@dataclass(frozen=True)
class _Shape:
    hidden: int
    query: int
    key: int
    intermediate: int


def _layer(
    reader: ConfigReader, variant: Variant, index: int, shape: _Shape, scale: float, window: int | None
) -> Layer:
    root = f"model.layers.{index}"

    def linear(block: str, role: str, out_features: int, in_features: int, has_bias: bool) -> Linear:
        base = f"{root}.{block}.{role}"
        bias = f"{base}.bias" if has_bias else None
        return Linear(f"{base}.weight", role, out_features, in_features, bias, index)

    into, out, mlp = variant.input_bias(reader), variant.output_bias(reader), variant.mlp_bias(reader)
    head_norm = f"{root}.self_attn"
    attention = Attention(
        inputs=(
            linear("self_attn", "q_proj", shape.query, shape.hidden, into),
            linear("self_attn", "k_proj", shape.key, shape.hidden, into),
            linear("self_attn", "v_proj", shape.key, shape.hidden, into),
        ),
        output=linear("self_attn", "o_proj", shape.hidden, shape.query, out),
        scale=scale,
        window=window,
        query_norm=Norm(f"{head_norm}.q_norm.weight") if variant.head_norms else None,
        key_norm=Norm(f"{head_norm}.k_norm.weight") if variant.head_norms else None,
    )
    forward = FeedForward(
        up=linear("mlp", "up_proj", shape.intermediate, shape.hidden, mlp),
        down=linear("mlp", "down_proj", shape.hidden, shape.intermediate, mlp),
        gate=linear("mlp", "gate_proj", shape.intermediate, shape.hidden, mlp),
    )
    return Layer(
        index,
        attention,
        Norm(f"{root}.input_layernorm.weight"),
        forward,
        Norm(f"{root}.post_attention_layernorm.weight"),
    )
