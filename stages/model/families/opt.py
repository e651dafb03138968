"""OPT (arXiv:2205.01068): learned positions from row 2 on, norms before each block (350m: behind), ReLU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .architecture import Architecture, Attention, FeedForward, Layer, Linear, Norm

if TYPE_CHECKING:
    from .config import ConfigReader

POSITION_OFFSET = 2
NORM_EPS = 1e-5


def opt(reader: ConfigReader) -> Architecture:
    """The architecture that an OPT config describes; some checkpoints lack the `model.` prefix."""
    reader.check_class(("OPTForCausalLM",))
    reader.require("layer_norm_elementwise_affine", True)
    hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    head_dim, inner = reader.divided("hidden_size", "num_attention_heads"), reader.integer("ffn_dim")
    vocabulary, width = reader.integer("vocab_size"), reader.integer("word_embed_proj_dim", hidden)
    before, biased = reader.flag("do_layer_norm_before", True), reader.flag("enable_bias", True)
    tied = reader.flag("tie_word_embeddings", True)
    root = f"{reader.prefix('model.')}decoder"

    def norm(base: str) -> Norm:
        return Norm(f"{base}.weight", f"{base}.bias")

    def projection(name: str, out_features: int, in_features: int) -> Linear | None:
        whole = width == hidden
        return None if whole else Linear(f"{root}.{name}.weight", name, out_features, in_features)

    def layer(index: int) -> Layer:
        block = f"{root}.layers.{index}"

        def linear(name: str, out_features: int, in_features: int) -> Linear:
            base, role = f"{block}.{name}", name.rsplit(".", 1)[-1]
            bias = f"{base}.bias" if biased else None
            return Linear(f"{base}.weight", role, out_features, in_features, bias, index)

        return Layer(
            index,
            Attention(
                inputs=(
                    linear("self_attn.q_proj", hidden, hidden),
                    linear("self_attn.k_proj", hidden, hidden),
                    linear("self_attn.v_proj", hidden, hidden),
                ),
                output=linear("self_attn.out_proj", hidden, hidden),
                scale=head_dim**-0.5,
            ),
            norm(f"{block}.self_attn_layer_norm"),
            FeedForward(up=linear("fc1", inner, hidden), down=linear("fc2", hidden, inner)),
            norm(f"{block}.final_layer_norm"),
        )

    last = before and not reader.flag("_remove_final_layer_norm", False)
    return Architecture(
        model_type="opt",
        task="causal-lm",
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=reader.integer("max_position_embeddings", 2048),
        activation=reader.activation("activation_function", "relu"),
        norm="layer",
        norm_eps=NORM_EPS,
        norm_first=before,
        embedding=f"{root}.embed_tokens.weight",
        layers=tuple(layer(index) for index in range(reader.integer("num_hidden_layers"))),
        position_embedding=f"{root}.embed_positions.weight",
        position_offset=POSITION_OFFSET,
        final_norm=norm(f"{root}.final_layer_norm") if last else None,
        head=None if tied else Linear("lm_head.weight", "lm_head", vocabulary, width),
        tied=tied,
        ignored=("lm_head.weight",) if tied else (),
        embedding_in=projection("project_in", hidden, width),
        embedding_out=projection("project_out", width, hidden),
    )
