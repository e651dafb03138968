"""Mixtures of experts in the layers of Llama's kin: Mixtral (arXiv:2401.04088), Qwen2-MoE and Qwen3-MoE.

Published checkpoints, and those that transformers saves, hold each expert's maps as tensors of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ....artifacts.errors import IntakeError
from .architecture import FeedForward, Linear, Mixture
from .llama import Variant, attention_bias, llama, never
from .rope import RopeKeys

if TYPE_CHECKING:
    from .architecture import Architecture, Layer
    from .config import ConfigReader

FUSED = ".experts.gate_up_proj"


def _qwen2_window(reader: ConfigReader, index: int) -> bool:
    upper = index >= reader.integer("max_window_layers", 28)
    return reader.flag("use_sliding_window", False) and index % 2 == 0 and not upper


MIXTRAL = Variant(
    "MixtralForCausalLM", never, never, never, False, lambda _reader, _index: True,
    rope=RopeKeys(default_theta=1e6),
)  # fmt: skip
QWEN2_MOE = Variant(
    "Qwen2MoeForCausalLM", lambda reader: reader.flag("qkv_bias", True), never, never, False, _qwen2_window
)
QWEN3_MOE = Variant(
    "Qwen3MoeForCausalLM", attention_bias, attention_bias, never, True,
    lambda reader, _index: reader.flag("use_sliding_window", False),
)  # fmt: skip


@dataclass(frozen=True)
class _Names:
    """What tensors are called within a layer; the maps of an expert in the order gate, up, down."""

    block: str
    maps: tuple[str, str, str]


MIXTRAL_NAMES = _Names("block_sparse_moe", ("w1", "w3", "w2"))
QWEN_NAMES = _Names("mlp", ("gate_proj", "up_proj", "down_proj"))


def mixtral(reader: ConfigReader) -> Architecture:
    """Mixtral: Mistral whose feed-forward is a few of several, their weights adding up to one."""
    model = llama(reader, MIXTRAL)
    inner = reader.integer("intermediate_size")
    return _mixed(reader, model, range(len(model.layers)), MIXTRAL_NAMES, inner, normalized=True)


def qwen2_moe(reader: ConfigReader) -> Architecture:
    """Qwen2-MoE: Qwen2 with experts, and beside them a shared one that every token goes through."""
    return _qwen(reader, llama(reader, QWEN2_MOE), reader.integer("shared_expert_intermediate_size"))


def qwen3_moe(reader: ConfigReader) -> Architecture:
    """Qwen3-MoE: Qwen3 with experts."""
    return _qwen(reader, llama(reader, QWEN3_MOE), None)


def _qwen(reader: ConfigReader, model: Architecture, shared: int | None) -> Architecture:
    dense = reader.config.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise reader.error("mlp_only_layers", "is not a list of layers")
    step = reader.integer("decoder_sparse_step", 1)
    sparse = [index for index in range(len(model.layers)) if index not in dense and (index + 1) % step == 0]
    normalized = reader.flag("norm_topk_prob", False)
    inner = reader.integer("moe_intermediate_size")
    return _mixed(reader, model, sparse, QWEN_NAMES, inner, normalized=normalized, shared=shared)


def _mixed(
    reader: ConfigReader,
    model: Architecture,
    sparse: range | list[int],
    names: _Names,
    inner: int,
    *,
    normalized: bool,
    shared: int | None = None,
) -> Architecture:
    """The model with experts of ``inner`` features in its ``sparse`` layers, one of ``shared`` for all."""
    fused = next((name for name in sorted(reader.tensor_names) if name.endswith(FUSED)), None)
    if fused is not None:
        fix = "save it with save_pretrained() of transformers, which writes a tensor for each expert"
        raise IntakeError(f"the experts are fused into one tensor, {fused}", where=reader.where, fix=fix)
    key = "num_experts" if "num_experts" in reader.config else "num_local_experts"
    count, chosen = reader.integer(key), reader.integer("num_experts_per_tok")
    if chosen > count:
        raise reader.error("num_experts_per_tok", f"is more than the {count} experts")

    def mixture(index: int) -> Mixture:
        root = f"model.layers.{index}.{names.block}"

        def linear(name: str, out_features: int, in_features: int) -> Linear:
            role = name.rsplit(".", 1)[-1]
            return Linear(f"{root}.{name}.weight", role, out_features, in_features, layer=index)

        def block(name: str, width: int) -> FeedForward:
            gate, up, down = (f"{name}.{each}" for each in names.maps)
            return FeedForward(
                up=linear(up, width, model.hidden),
                down=linear(down, model.hidden, width),
                gate=linear(gate, width, model.hidden),
            )

        return Mixture(
            router=linear("gate", count, model.hidden),
            experts=tuple(block(f"experts.{number}", inner) for number in range(count)),
            chosen=chosen,
            normalized=normalized,
            shared=block("shared_expert", shared) if shared else None,
            shared_gate=linear("shared_expert_gate", 1, model.hidden) if shared else None,
        )

    def changed(layer: Layer) -> Layer:
        return replace(layer, feed_forward=mixture(layer.index)) if layer.index in sparse else layer

    return replace(model, layers=tuple(changed(layer) for layer in model.layers))
