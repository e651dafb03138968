"""Phi: attention and feed-forward beside each other (Phi-1 to 2), and Llama with fused maps (Phi-3, 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .architecture import Architecture, Attention, FeedForward, Layer, Linear, Norm
from .rope import RopeKeys, rope

if TYPE_CHECKING:
    from .config import ConfigReader

PHI_ROPE = RopeKeys(default_fraction=0.5)
PHI3_ROPE = RopeKeys(default_fraction=1.0, longrope=True)
IGNORED = ("*.rotary_emb.inv_freq",)


def phi(reader: ConfigReader) -> Architecture:
    """Phi-1, 1.5 and 2: both blocks of a layer read the same norm; biases everywhere, in the head too."""
    reader.check_class(("PhiForCausalLM",))
    reader.require("tie_word_embeddings", False)
    hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    head_dim, kv_heads = reader.divided("hidden_size", "num_attention_heads"), _kv_heads(reader)
    inner, vocabulary = reader.integer("intermediate_size"), reader.integer("vocab_size")
    head_norms = reader.flag("qk_layernorm", False)

    def norm(base: str) -> Norm:
        return Norm(f"{base}.weight", f"{base}.bias")

    def layer(index: int) -> Layer:
        root = f"model.layers.{index}"

        def linear(name: str, out_features: int, in_features: int) -> Linear:
            base, role = f"{root}.{name}", name.rsplit(".", 1)[-1]
            return Linear(f"{base}.weight", role, out_features, in_features, f"{base}.bias", index)

        attention = Attention(
            inputs=(
                linear("self_attn.q_proj", hidden, hidden),
                linear("self_attn.k_proj", kv_heads * head_dim, hidden),
                linear("self_attn.v_proj", kv_heads * head_dim, hidden),
            ),
            output=linear("self_attn.dense", hidden, hidden),
            scale=head_dim**-0.5,
            query_norm=norm(f"{root}.self_attn.q_layernorm") if head_norms else None,
            key_norm=norm(f"{root}.self_attn.k_layernorm") if head_norms else None,
        )
        forward = FeedForward(up=linear("mlp.fc1", inner, hidden), down=linear("mlp.fc2", hidden, inner))
        before = norm(f"{root}.input_layernorm")
        return Layer(index, attention, before, forward, before)

    return Architecture(
        model_type="phi",
        task="causal-lm",
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=reader.integer("max_position_embeddings", 2048),
        activation=reader.activation("hidden_act", "gelu_new"),
        norm="layer",
        norm_eps=reader.number("layer_norm_eps", 1e-5),
        norm_first=True,
        parallel=True,
        embedding="model.embed_tokens.weight",
        layers=tuple(layer(index) for index in range(reader.integer("num_hidden_layers"))),
        rope=rope(reader, head_dim, PHI_ROPE),
        final_norm=norm("model.final_layernorm"),
        head=Linear("lm_head.weight", "lm_head", vocabulary, hidden, "lm_head.bias"),
        ignored=IGNORED,
    )


def phi3(reader: ConfigReader) -> Architecture:
    """Phi-3, 3.5 and 4: Llama with query, key and value in one map, and gate and up in another."""
    reader.check_class(("Phi3ForCausalLM",))
    hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    head_dim, kv_heads = reader.divided("hidden_size", "num_attention_heads"), _kv_heads(reader)
    inner, vocabulary = reader.integer("intermediate_size"), reader.integer("vocab_size")
    count, tied = reader.integer("num_hidden_layers"), reader.flag("tie_word_embeddings", False)
    windows = reader.windows(count, lambda _index: True)

    def layer(index: int) -> Layer:
        root = f"model.layers.{index}"

        def linear(name: str, out_features: int, in_features: int) -> Linear:
            role = name.rsplit(".", 1)[-1]
            return Linear(f"{root}.{name}.weight", role, out_features, in_features, layer=index)

        attention = Attention(
            inputs=(linear("self_attn.qkv_proj", hidden + 2 * kv_heads * head_dim, hidden),),
            output=linear("self_attn.o_proj", hidden, hidden),
            scale=head_dim**-0.5,
            window=windows[index],
        )
        forward = FeedForward(
            up=linear("mlp.gate_up_proj", 2 * inner, hidden),
            down=linear("mlp.down_proj", hidden, inner),
            gate_in_up=True,
        )
        before, between = f"{root}.input_layernorm.weight", f"{root}.post_attention_layernorm.weight"
        return Layer(index, attention, Norm(before), forward, Norm(between))

    return Architecture(
        model_type="phi3",
        task="causal-lm",
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=reader.integer("max_position_embeddings", 4096),
        activation=reader.activation("hidden_act", "silu"),
        norm="rms",
        norm_eps=reader.number("rms_norm_eps", 1e-5),
        norm_first=True,
        embedding="model.embed_tokens.weight",
        layers=tuple(layer(index) for index in range(count)),
        rope=rope(reader, head_dim, PHI3_ROPE),
        final_norm=Norm("model.norm.weight"),
        head=None if tied else Linear("lm_head.weight", "lm_head", vocabulary, hidden),
        tied=tied,
        ignored=(*IGNORED, *(("lm_head.weight",) if tied else ())),
    )


def _kv_heads(reader: ConfigReader) -> int:
    heads = reader.integer("num_attention_heads")
    kv_heads = reader.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise reader.error("num_key_value_heads", f"does not divide num_attention_heads, {heads}")
    return kv_heads
