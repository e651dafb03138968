"""BART (arXiv:1910.13461): encoder and decoder with learned positions, biases, and norms after each block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .architecture import Architecture, Attention, FeedForward, Layer, Linear, Norm

if TYPE_CHECKING:
    from .config import ConfigReader

# The bare class is how the pretrained checkpoints were published; their head is the embedding.
ACCEPTED = ("BartForConditionalGeneration", "BartModel")
IGNORED = ("*coder.version",)
HEAD = "lm_head.weight"
LOGITS_BIAS = "final_logits_bias"
# Rows of the table of positions before that of position 0.
OFFSET = 2
# The network's own value; configs do not state it.
NORM_EPS = 1e-5


def bart(reader: ConfigReader) -> Architecture:
    """The architecture that a BART config describes; the constant bias on its logits may be absent.

    Its three embeddings are one where they are tied, as in all that were published, else three.
    """
    reader.check_class(ACCEPTED)
    hidden, vocabulary = reader.integer("d_model"), reader.integer("vocab_size")
    is_tied = reader.flag("tie_word_embeddings", True)
    bare = not reader.tensor_names and reader.config.get("architectures") == ["BartModel"]
    root = "" if bare else reader.prefix("model.")
    has_bias = reader.holds(LOGITS_BIAS) if reader.tensor_names else not bare
    copies = tuple(f"{root}{side}.embed_tokens.weight" for side in ("encoder", "decoder"))
    encoder, decoder = (_side(reader, root, side, is_tied=is_tied) for side in ("encoder", "decoder"))
    return replace(
        decoder,
        task="seq2seq-lm",
        head=None if is_tied else Linear(HEAD, "lm_head", vocabulary, hidden),
        tied=is_tied,
        head_bias=LOGITS_BIAS if has_bias else None,
        ignored=(*IGNORED, *((HEAD, *copies) if is_tied else (f"{root}shared.weight",))),
        copies=copies if is_tied else (),
        encoder=encoder,
        decoder_start=reader.token("decoder_start_token_id", 2),
    )


def _side(reader: ConfigReader, root: str, side: str, *, is_tied: bool) -> Architecture:
    hidden, heads = reader.integer("d_model"), reader.integer(f"{side}_attention_heads")
    if hidden % heads:
        raise reader.error("d_model", f"is not a multiple of {side}_attention_heads, {heads}")
    count, wide = reader.integer(f"{side}_layers"), reader.integer(f"{side}_ffn_dim")
    return Architecture(
        model_type="bart",
        task="encoder",
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        vocabulary=reader.integer("vocab_size"),
        context=reader.integer("max_position_embeddings", 1024),
        activation=reader.activation("activation_function", "gelu"),
        norm="layer",
        norm_eps=NORM_EPS,
        norm_first=False,
        embedding=f"{root}shared.weight" if is_tied else f"{root}{side}.embed_tokens.weight",
        layers=tuple(_layer(root, side, index, hidden, wide, hidden // heads) for index in range(count)),
        position_embedding=f"{root}{side}.embed_positions.weight",
        position_offset=OFFSET,
        embedding_norm=_norm(f"{root}{side}.layernorm_embedding"),
        embedding_scale=hidden**0.5 if reader.flag("scale_embedding", False) else 1.0,
        ignored=IGNORED,
    )


def _norm(base: str) -> Norm:
    return Norm(f"{base}.weight", f"{base}.bias")


def _layer(root: str, side: str, index: int, hidden: int, wide: int, head_dim: int) -> Layer:
    block = f"{root}{side}.layers.{index}"

    def linear(name: str, role: str, out_features: int, in_features: int) -> Linear:
        base = f"{block}.{name}"
        return Linear(f"{base}.weight", role, out_features, in_features, f"{base}.bias", index)

    def attention(name: str, prefix: str) -> Attention:
        query, key, value, output = (
            linear(f"{name}.{part}", f"{prefix}{part}", hidden, hidden)
            for part in ("q_proj", "k_proj", "v_proj", "out_proj")
        )
        return Attention((query, key, value), output, scale=head_dim**-0.5)

    is_decoder = side == "decoder"
    return Layer(
        index,
        attention("self_attn", ""),
        _norm(f"{block}.self_attn_layer_norm"),
        FeedForward(up=linear("fc1", "fc1", wide, hidden), down=linear("fc2", "fc2", hidden, wide)),
        _norm(f"{block}.final_layer_norm"),
        attention("encoder_attn", "cross_") if is_decoder else None,
        _norm(f"{block}.encoder_attn_layer_norm") if is_decoder else None,
    )
