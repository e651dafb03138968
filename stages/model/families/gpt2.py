"""GPT-2: learned positions, layer norms, Conv1D weights stored [in, out], query, key and value in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .architecture import Architecture, Attention, FeedForward, Layer, Linear, Norm

if TYPE_CHECKING:
    from .config import ConfigReader


def gpt2(reader: ConfigReader) -> Architecture:
    """The architecture that a GPT-2 config describes; some checkpoints lack the `transformer.` prefix."""
    reader.check_class(("GPT2LMHeadModel",))
    reader.require("add_cross_attention", False)
    reader.require("scale_attn_weights", True)
    reader.require("scale_attn_by_inverse_layer_idx", False)
    hidden, heads = reader.integer("n_embd"), reader.integer("n_head")
    if hidden % heads:
        raise reader.error("n_embd", f"is not a multiple of n_head, {heads}")
    head_dim, vocabulary = hidden // heads, reader.integer("vocab_size")
    inner = reader.integer("n_inner", 4 * hidden)
    tied = reader.flag("tie_word_embeddings", True)
    root = reader.prefix("transformer.")

    def layer(index: int) -> Layer:
        block = f"{root}h.{index}"

        def linear(name: str, out_features: int, in_features: int) -> Linear:
            base, role = f"{block}.{name}", name.replace(".", "_")
            return Linear(f"{base}.weight", role, out_features, in_features, f"{base}.bias", index, True)

        return Layer(
            index,
            Attention(
                inputs=(linear("attn.c_attn", 3 * hidden, hidden),),
                output=linear("attn.c_proj", hidden, hidden),
                scale=head_dim**-0.5,
            ),
            Norm(f"{block}.ln_1.weight", f"{block}.ln_1.bias"),
            FeedForward(up=linear("mlp.c_fc", inner, hidden), down=linear("mlp.c_proj", hidden, inner)),
            Norm(f"{block}.ln_2.weight", f"{block}.ln_2.bias"),
        )

    return Architecture(
        model_type="gpt2",
        task="causal-lm",
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=reader.integer("n_positions", 1024),
        activation=reader.activation("activation_function", "gelu_new"),
        norm="layer",
        norm_eps=reader.number("layer_norm_epsilon", 1e-5),
        norm_first=True,
        embedding=f"{root}wte.weight",
        layers=tuple(layer(index) for index in range(reader.integer("n_layer"))),
        position_embedding=f"{root}wpe.weight",
        final_norm=Norm(f"{root}ln_f.weight", f"{root}ln_f.bias"),
        head=None if tied else Linear("lm_head.weight", "lm_head", vocabulary, hidden),
        tied=tied,
        ignored=("*.attn.bias", "*.attn.masked_bias", *(("lm_head.weight",) if tied else ())),
    )
