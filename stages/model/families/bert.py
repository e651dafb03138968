"""BERT (arXiv:1810.04805): an encoder with learned positions, token types and norms after each block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .architecture import Architecture, Attention, FeedForward, Layer, Linear, Norm

if TYPE_CHECKING:
    from .config import ConfigReader

# Its result is the last hidden state: pooler and pretraining heads stay behind; a trained task head may not.
ACCEPTED = ("BertModel", "BertForMaskedLM", "BertForPreTraining")
IGNORED = ("*pooler.dense.*", "*embeddings.position_ids", "cls.*")


def bert(reader: ConfigReader) -> Architecture:
    """The architecture that a BERT config describes."""
    return network(reader, ACCEPTED, "bert.", IGNORED)


def network(
    reader: ConfigReader, accepted: tuple[str, ...], prefix: str, ignored: tuple[str, ...]
) -> Architecture:
    """A network with BERT's layers, whose bare class is the first of those ``accepted``.

    Checkpoints from before 2019 call a norm's tensors gamma and beta; the tensor names tell.
    """
    reader.check_class(accepted)
    reader.require("is_decoder", False)
    reader.require("add_cross_attention", False)
    reader.require("position_embedding_type", "absolute")
    hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    if hidden % heads:
        raise reader.error("hidden_size", f"is not a multiple of num_attention_heads, {heads}")
    inner, head_dim = reader.integer("intermediate_size"), hidden // heads
    alone = not reader.tensor_names and reader.config.get("architectures") in (None, [accepted[0]])
    root = "" if alone else reader.prefix(prefix)
    old = f"{root}embeddings.LayerNorm.gamma" in reader.tensor_names
    scale_name, shift_name = ("gamma", "beta") if old else ("weight", "bias")

    def norm(base: str) -> Norm:
        return Norm(f"{base}.{scale_name}", f"{base}.{shift_name}")

    def layer(index: int) -> Layer:
        block = f"{root}encoder.layer.{index}"

        def linear(name: str, role: str, out_features: int, in_features: int) -> Linear:
            base = f"{block}.{name}"
            return Linear(f"{base}.weight", role, out_features, in_features, f"{base}.bias", index)

        return Layer(
            index,
            Attention(
                inputs=(
                    linear("attention.self.query", "query", hidden, hidden),
                    linear("attention.self.key", "key", hidden, hidden),
                    linear("attention.self.value", "value", hidden, hidden),
                ),
                output=linear("attention.output.dense", "attention_output", hidden, hidden),
                scale=head_dim**-0.5,
            ),
            norm(f"{block}.attention.output.LayerNorm"),
            FeedForward(
                up=linear("intermediate.dense", "intermediate", inner, hidden),
                down=linear("output.dense", "output", hidden, inner),
            ),
            norm(f"{block}.output.LayerNorm"),
        )

    return Architecture(
        model_type=str(reader.config["model_type"]),
        task="encoder",
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary=reader.integer("vocab_size"),
        context=reader.integer("max_position_embeddings", 512),
        activation=reader.activation("hidden_act", "gelu"),
        norm="layer",
        norm_eps=reader.number("layer_norm_eps", 1e-12),
        norm_first=False,
        embedding=f"{root}embeddings.word_embeddings.weight",
        layers=tuple(layer(index) for index in range(reader.integer("num_hidden_layers"))),
        position_embedding=f"{root}embeddings.position_embeddings.weight",
        token_type_embedding=f"{root}embeddings.token_type_embeddings.weight",
        token_types=reader.integer("type_vocab_size", 2),
        embedding_norm=norm(f"{root}embeddings.LayerNorm"),
        ignored=ignored,
    )
