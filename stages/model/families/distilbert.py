"""DistilBERT (arXiv:1910.01108): BERT's layers under other names, without token types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .architecture import Architecture, Attention, FeedForward, Layer, Linear, Norm

if TYPE_CHECKING:
    from .config import ConfigReader

ACCEPTED = ("DistilBertModel", "DistilBertForMaskedLM")
IGNORED = ("*embeddings.position_ids", "vocab_transform.*", "vocab_layer_norm.*", "vocab_projector.*")
# The network's own value; configs do not state it.
NORM_EPS = 1e-12


def distilbert(reader: ConfigReader) -> Architecture:
    """The architecture that a DistilBERT config describes; sinusoidal positions are stored like learned
    ones.
    """
    reader.check_class(ACCEPTED)
    hidden, heads = reader.integer("dim", 768), reader.integer("n_heads", 12)
    if hidden % heads:
        raise reader.error("dim", f"is not a multiple of n_heads, {heads}")
    inner, head_dim = reader.integer("hidden_dim", 4 * hidden), hidden // heads
    alone = not reader.tensor_names and reader.config.get("architectures") in (None, [ACCEPTED[0]])
    root = "" if alone else reader.prefix("distilbert.")

    def norm(base: str) -> Norm:
        return Norm(f"{base}.weight", f"{base}.bias")

    def layer(index: int) -> Layer:
        block = f"{root}transformer.layer.{index}"

        def linear(name: str, out_features: int, in_features: int) -> Linear:
            base, role = f"{block}.{name}", name.rpartition(".")[2]
            return Linear(f"{base}.weight", role, out_features, in_features, f"{base}.bias", index)

        return Layer(
            index,
            Attention(
                inputs=(
                    linear("attention.q_lin", hidden, hidden),
                    linear("attention.k_lin", hidden, hidden),
                    linear("attention.v_lin", hidden, hidden),
                ),
                output=linear("attention.out_lin", hidden, hidden),
                scale=head_dim**-0.5,
            ),
            norm(f"{block}.sa_layer_norm"),
            FeedForward(up=linear("ffn.lin1", inner, hidden), down=linear("ffn.lin2", hidden, inner)),
            norm(f"{block}.output_layer_norm"),
        )

    return Architecture(
        model_type="distilbert",
        task="encoder",
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary=reader.integer("vocab_size"),
        context=reader.integer("max_position_embeddings", 512),
        activation=reader.activation("activation", "gelu"),
        norm="layer",
        norm_eps=NORM_EPS,
        norm_first=False,
        embedding=f"{root}embeddings.word_embeddings.weight",
        layers=tuple(layer(index) for index in range(reader.integer("n_layers", 6))),
        position_embedding=f"{root}embeddings.position_embeddings.weight",
        embedding_norm=norm(f"{root}embeddings.LayerNorm"),
        ignored=IGNORED,
    )
