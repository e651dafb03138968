"""Gemma: Llama with scaled embeddings and norms whose scale is stored less one.

Gemma 2 (arXiv:2408.00118) adds norms behind each block, capped scores and logits, and a window in every other
layer; Gemma 3 (arXiv:2503.19786) norms each head's query and key, and rotates windowed layers differently.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .architecture import Norm
from .llama import Variant, attention_bias, llama, never
from .rope import RopeKeys, rope

if TYPE_CHECKING:
    from .architecture import Architecture, Layer, Rope
    from .config import ConfigReader

USUAL_SCALAR = 256
USUAL_PERIOD = 6

GEMMA = Variant(
    "GemmaForCausalLM", attention_bias, attention_bias, never, False, lambda _reader, _index: False,
    ("hidden_act", "gelu_pytorch_tanh"), tied=True,
)  # fmt: skip
GEMMA2 = Variant(
    "Gemma2ForCausalLM", attention_bias, attention_bias, never, False, lambda _reader, index: index % 2 == 0,
    ("hidden_activation", "gelu_pytorch_tanh"), tied=True,
)  # fmt: skip
GEMMA3 = Variant(
    "Gemma3ForCausalLM", attention_bias, attention_bias, never, True,
    lambda reader, index: (index + 1) % _period(reader) != 0,
    ("hidden_activation", "gelu_pytorch_tanh"), tied=True,
    rope=RopeKeys(default_theta=1e6, layers="full_attention"),
)  # fmt: skip
LOCAL_ROPE = RopeKeys("rope_local_base_freq", scaling=None, layers="sliding_attention")


def gemma(reader: ConfigReader) -> Architecture:
    """The architecture that a Gemma config describes."""
    model = llama(reader, GEMMA)
    # The first releases say gelu and mean its tanh form, as the reference implementation has it.
    activation = "gelu_tanh" if model.activation == "gelu" else model.activation
    return replace(_scaled(reader, model), activation=activation)


def gemma2(reader: ConfigReader) -> Architecture:
    """The architecture that a Gemma 2 config describes."""
    return _capped(reader, llama(reader, GEMMA2))


def gemma3(reader: ConfigReader) -> Architecture:
    """The architecture that the config of a Gemma 3 without vision describes."""
    reader.integer("sliding_window")  # rotation goes by it, so there must be one
    reader.require("attn_logit_softcapping", None)
    model = _capped(reader, llama(reader, GEMMA3))
    local = rope(reader, model.head_dim, LOCAL_ROPE)
    return replace(model, layers=tuple(_with_local(layer, local) for layer in model.layers))


def _period(reader: ConfigReader) -> int:
    """Every how many layers one sees all positions, where `layer_types` does not say."""
    key = "sliding_window_pattern"
    return reader.integer(f"_{key}", reader.integer(key, USUAL_PERIOD))


def _scaled(reader: ConfigReader, model: Architecture) -> Architecture:
    if reader.flag("use_bidirectional_attention", False):
        raise reader.error("use_bidirectional_attention", "is not supported, only false is")
    return replace(model, norm="rms_above_one", embedding_scale=model.hidden**0.5)


def _capped(reader: ConfigReader, model: Architecture) -> Architecture:
    scale = reader.number("query_pre_attn_scalar", USUAL_SCALAR) ** -0.5
    score_cap = _cap(reader, "attn_logit_softcapping")
    return replace(
        _scaled(reader, model),
        logit_softcap=_cap(reader, "final_logit_softcapping"),
        layers=tuple(_with_post_norms(layer, scale, score_cap) for layer in model.layers),
    )


def _cap(reader: ConfigReader, key: str) -> float | None:
    return None if reader.config.get(key) is None else reader.positive(key, reader.config[key])


def _with_post_norms(layer: Layer, scale: float, softcap: float | None) -> Layer:
    root = f"model.layers.{layer.index}"
    return replace(
        layer,
        attention=replace(layer.attention, scale=scale, softcap=softcap),
        attention_post_norm=Norm(f"{root}.post_attention_layernorm.weight"),
        feed_forward_norm=Norm(f"{root}.pre_feedforward_layernorm.weight"),
        feed_forward_post_norm=Norm(f"{root}.post_feedforward_layernorm.weight"),
    )


def _with_local(layer: Layer, local: Rope) -> Layer:
    if layer.attention.window is None:
        return layer
    return replace(layer, attention=replace(layer.attention, rope=local))
