"""T5 (arXiv:1910.10683) and mT5: encoder and decoder with relative positions, bare norms, unscaled scores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .architecture import Activation, Architecture, Attention, FeedForward, Layer, Linear, Norm, RelativeBias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config import ConfigReader

COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
IGNORED = (*COPIES, "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight")
HEAD = "lm_head.weight"
# `feed_forward_proj`: the activation and whether a gate is activated. A gated gelu is the tanh form.
FEED_FORWARDS: Mapping[str, tuple[Activation, bool]] = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-relu": ("relu", True),
    "gated-silu": ("silu", True),
}


def t5(reader: ConfigReader, accepted: tuple[str, ...] = ("T5ForConditionalGeneration",)) -> Architecture:
    """The architecture that a T5 config describes.

    Relative positions set no longest sequence; the context is `n_positions`, 512 in training, where it is
    given. The head is the embedding, with its input scaled, in T5; T5 1.1 has one of its own, unscaled. A
    config that a newer transformers saved no longer tells which, but says `scale_decoder_outputs`; whether
    there is a head of its own is seen from the tensors.
    """
    reader.check_class(accepted)
    hidden, heads = reader.integer("d_model"), reader.integer("num_heads")
    head_dim, vocabulary = reader.integer("d_kv", 64), reader.integer("vocab_size")
    is_tied = reader.flag("tie_word_embeddings", True)
    is_scaled = reader.flag("scale_decoder_outputs", is_tied)
    has_head = reader.holds(HEAD) if reader.tensor_names else not is_tied
    count = reader.integer("num_layers")
    activation, _ = _feed_forward_kind(reader)
    encoder = Architecture(
        model_type=str(reader.config["model_type"]),
        task="encoder",
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=reader.integer("n_positions", 512),
        activation=activation,
        norm="rms",
        norm_eps=reader.number("layer_norm_epsilon", 1e-6),
        norm_first=True,
        embedding="shared.weight",
        layers=tuple(_layer(reader, "encoder", index, heads * head_dim) for index in range(count)),
        final_norm=Norm("encoder.final_layer_norm.weight"),
        relative_bias=_bias(reader, "encoder", both_directions=True),
        ignored=IGNORED,
        copies=COPIES,
    )
    deep = reader.integer("num_decoder_layers", count)
    return replace(
        encoder,
        task="seq2seq-lm",
        layers=tuple(_layer(reader, "decoder", index, heads * head_dim) for index in range(deep)),
        final_norm=Norm("decoder.final_layer_norm.weight"),
        relative_bias=_bias(reader, "decoder", both_directions=False),
        head=Linear(HEAD, "lm_head", vocabulary, hidden) if has_head else None,
        tied=not has_head,
        head_scale=hidden**-0.5 if is_scaled else 1.0,
        encoder=encoder,
        decoder_start=reader.token("decoder_start_token_id", reader.token("pad_token_id", 0)),
    )


def mt5(reader: ConfigReader) -> Architecture:
    """mT5: T5 1.1 with another vocabulary; what goes into its head is never scaled."""
    return replace(t5(reader, ("MT5ForConditionalGeneration",)), head_scale=1.0)


def _bias(reader: ConfigReader, side: str, *, both_directions: bool) -> RelativeBias:
    """The biases of one side, which all of its layers take from the first."""
    return RelativeBias(
        f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        reader.integer("relative_attention_num_buckets", 32),
        reader.integer("relative_attention_max_distance", 128),
        both_directions,
    )


def _feed_forward_kind(reader: ConfigReader) -> tuple[Activation, bool]:
    value = reader.config.get("feed_forward_proj") or "relu"
    if value not in FEED_FORWARDS:
        raise reader.error("feed_forward_proj", f"is not one of {', '.join(FEED_FORWARDS)}")
    return FEED_FORWARDS[str(value)]


def _layer(reader: ConfigReader, side: str, index: int, inner: int) -> Layer:
    hidden, wide = reader.integer("d_model"), reader.integer("d_ff")
    block = f"{side}.block.{index}.layer"
    last = 2 if side == "decoder" else 1

    def linear(name: str, role: str, out_features: int, in_features: int) -> Linear:
        return Linear(f"{block}.{name}.weight", role, out_features, in_features, None, index)

    def attention(name: str, prefix: str) -> Attention:
        inputs = (linear(f"{name}.{part}", f"{prefix}{part}", inner, hidden) for part in "qkv")
        return Attention(tuple(inputs), linear(f"{name}.o", f"{prefix}o", hidden, inner), scale=1.0)

    def wide_map(name: str) -> Linear:
        return linear(f"{last}.DenseReluDense.{name}", name, wide, hidden)

    _, is_gated = _feed_forward_kind(reader)
    return Layer(
        index,
        attention("0.SelfAttention", ""),
        Norm(f"{block}.0.layer_norm.weight"),
        FeedForward(
            up=wide_map("wi_1" if is_gated else "wi"),
            down=linear(f"{last}.DenseReluDense.wo", "wo", hidden, wide),
            gate=wide_map("wi_0") if is_gated else None,
        ),
        Norm(f"{block}.{last}.layer_norm.weight"),
        attention("1.EncDecAttention", "cross_") if side == "decoder" else None,
        Norm(f"{block}.1.layer_norm.weight") if side == "decoder" else None,
    )
