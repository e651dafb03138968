"""GPT-NeoX (arXiv:2204.06745) and Pythia: blocks beside each other, heads that are rotated in part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .architecture import Architecture, Attention, FeedForward, Layer, Linear, Norm
from .rope import RopeKeys, rope

if TYPE_CHECKING:
    from .config import ConfigReader

ROPE = RopeKeys(theta="rotary_emb_base", fraction="rotary_pct", default_fraction=0.25)
# Causal masks and frequencies that older checkpoints hold.
IGNORED = ("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq")
HEADS = ("embed_out.weight", "lm_head.weight")


def gpt_neox(reader: ConfigReader) -> Architecture:
    """The architecture that a GPT-NeoX config describes.

    Its map of query, key and value holds them head by head.
    """
    reader.check_class(("GPTNeoXForCausalLM",))
    hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    head_dim = reader.divided("hidden_size", "num_attention_heads")
    inner, vocabulary = reader.integer("intermediate_size"), reader.integer("vocab_size")
    tied = reader.flag("tie_word_embeddings", False)
    biased = reader.flag("attention_bias", True)
    head = next((name for name in HEADS if reader.holds(name)), HEADS[0])

    def norm(base: str) -> Norm:
        return Norm(f"{base}.weight", f"{base}.bias")

    def layer(index: int) -> Layer:
        root = f"gpt_neox.layers.{index}"

        def linear(name: str, out_features: int, in_features: int, has_bias: bool) -> Linear:
            base, role = f"{root}.{name}", name.replace(".", "_")
            bias = f"{base}.bias" if has_bias else None
            return Linear(f"{base}.weight", role, out_features, in_features, bias, index)

        return Layer(
            index,
            Attention(
                inputs=(linear("attention.query_key_value", 3 * hidden, hidden, biased),),
                output=linear("attention.dense", hidden, hidden, biased),
                scale=head_dim**-0.5,
                interleaved=True,
            ),
            norm(f"{root}.input_layernorm"),
            FeedForward(
                up=linear("mlp.dense_h_to_4h", inner, hidden, True),
                down=linear("mlp.dense_4h_to_h", hidden, inner, True),
            ),
            norm(f"{root}.post_attention_layernorm"),
        )

    return Architecture(
        model_type="gpt_neox",
        task="causal-lm",
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=reader.integer("max_position_embeddings", 2048),
        activation=reader.activation("hidden_act", "gelu"),
        norm="layer",
        norm_eps=reader.number("layer_norm_eps", 1e-5),
        norm_first=True,
        parallel=reader.flag("use_parallel_residual", True),
        embedding="gpt_neox.embed_in.weight",
        layers=tuple(layer(index) for index in range(reader.integer("num_hidden_layers"))),
        rope=rope(reader, head_dim, ROPE),
        final_norm=norm("gpt_neox.final_layer_norm"),
        head=None if tied else Linear(head, "lm_head", vocabulary, hidden),
        tied=tied,
        ignored=IGNORED,
    )
