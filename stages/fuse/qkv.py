"""`fuse.qkv`: query, key and value in one map, gate and up in another, as Phi-3 has them.

Phi-3 is Llama with these maps side by side, so a network of that kind can be stored as one: the same weights,
bit for bit, in fewer and larger products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from ...artifacts.tensors import TensorShape
from ..base import Context, Result, stage
from ..model.families import FeedForward

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..model.checkpoint import Checkpoint
    from ..model.families import Architecture, Layer

# What both configs call alike, and means the same in both.
KEPT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "tie_word_embeddings", "hidden_act", "attention_dropout",
    "initializer_range", "use_cache", "dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
# Phi-3's defaults for these lie past a smaller vocabulary.
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
ROUNDING = 1e-6
QKV, GATE_UP = "self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"


@dataclass(frozen=True)
class QkvParams:
    """`fuse.qkv` has no parameters: weights are put side by side as they are."""


@stage(
    "fuse.qkv",
    params=QkvParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="bitwise",
    tools=("numpy", "torch"),
    summary="Store a network of Llama's kind as Phi-3: query, key, value in one map, gate and up in another",
    same_function=True,
)
def run(context: Context[QkvParams]) -> Result:
    """Writes the checkpoint `model` with fused maps; every weight keeps its bits.

    Both networks then take short rows of tokens through, block by block. Raises InputError, with the reason,
    for a network that Phi-3's code does not compute; StageError where the two differ.
    """
    import numpy as np

    from ...artifacts.tensors import SafetensorsWriter
    from ..model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint
    from ..model.sameness import require_same

    source = Checkpoint.open(context.inputs["model"].path)
    model, tensors = source.architecture, source.tensors
    if (reason := next(_reasons(model, source), None)) is not None:
        raise InputError(
            f"{model.model_type}: it cannot be stored as Phi-3, since {reason}",
            where=str(source.directory / CONFIG_FILE),
            fix="leave fuse.qkv out for this model",
        )
    groups = _groups(source)
    source.copy_sidecars(context.output, _config(source))
    with (
        context.output.create(WEIGHTS_FILE) as file,
        SafetensorsWriter(file, [shape for shape, _ in groups]) as writer,
    ):
        for done, (shape, parts) in enumerate(groups):
            context.progress(done, len(groups), shape.name)
            writer.write(shape.name, np.concatenate([tensors.raw(part) for part in parts]))
            for part in parts:
                tensors.release(part)
    found = require_same(source, Checkpoint.open(context.output.payload), "fuse.qkv")
    context.progress(len(groups), len(groups), "fused, and found to compute the same")
    facts = {
        **context.inputs["model"].facts,
        "architecture": "Phi3ForCausalLM",
        "model_type": "phi3",
        "weight_bytes": (context.output.payload / WEIGHTS_FILE).stat().st_size,
    }
    return Result(facts, {"largest_error": found.error, "same_top1": found.top1})


def _reasons(model: Architecture, source: Checkpoint) -> Iterator[str]:
    """Why Phi-3's code would not compute this network."""
    if model.task != "causal-lm" or model.norm != "rms" or not model.norm_first or model.parallel:
        yield "it is no decoder with root-mean-square norms in front of its blocks, one after the other"
    if model.head_dim * model.heads != model.hidden:
        yield "its heads together are not as wide as its states"
    if model.rope is None or model.rope.kind != "default" or model.rope.dim != model.head_dim:
        yield "its positions are not those of plain rotary embeddings"
    if model.embedding_scale != 1.0 or model.head_scale != 1.0 or model.logit_softcap is not None:
        yield "it scales its embeddings or its logits"
    if len({layer.attention.window for layer in model.layers}) > 1:
        yield "its layers see windows of different widths"
    for layer in model.layers:
        yield from _attention_reasons(layer, model)
        if not isinstance(layer.feed_forward, FeedForward) or layer.feed_forward.gate is None:
            yield "its feed-forward has no gate of its own"
        biased = next((linear for linear in layer.linears if linear.bias), None)
        if biased is not None:
            yield f"{biased.role} has a bias"
        for parts in _fused(layer).values():
            if len({source.tensors.info(part).dtype for part in parts}) > 1:
                yield f"{parts[0]} and what is put beside it are stored in different dtypes"


def _attention_reasons(layer: Layer, model: Architecture) -> Iterator[str]:
    attention = layer.attention
    if len(attention.inputs) != 3:
        yield "its query, key and value are one map already"
    if attention.query_norm or attention.key_norm or layer.attention_post_norm:
        yield "it has norms in its attention, or behind it"
    if attention.softcap is not None or attention.rope is not None:
        yield "its scores are capped, or its layers rotate differently"
    if abs(attention.scale * model.head_dim**0.5 - 1.0) > ROUNDING:
        yield "its scores are scaled in another way"


def _fused(layer: Layer) -> dict[str, tuple[str, ...]]:
    """The names of the fused weights of a layer, and of what they are made of."""
    found = {QKV: tuple(linear.name for linear in layer.attention.inputs)}
    forward = layer.feed_forward
    if isinstance(forward, FeedForward) and forward.gate is not None:
        found[GATE_UP] = (forward.gate.name, forward.up.name)
    return {f"model.layers.{layer.index}.{name}": parts for name, parts in found.items()}


def _groups(source: Checkpoint) -> list[tuple[TensorShape, tuple[str, ...]]]:
    """What is written: each tensor's shape and what it is made of, in the order of the source."""
    fused = {
        part: (name, parts)
        for layer in source.architecture.layers
        for name, parts in _fused(layer).items()
        for part in parts
    }
    found: dict[str, tuple[TensorShape, tuple[str, ...]]] = {}
    for stored in source.tensors.names():
        name, parts = fused.get(stored, (stored, (stored,)))
        infos = [source.tensors.info(part) for part in parts]
        shape = infos[0].shape
        if len(parts) > 1:
            shape = (sum(info.shape[0] for info in infos), *shape[1:])
        found[name] = (TensorShape(name, infos[0].dtype, shape), parts)
    return list(found.values())


def _config(source: Checkpoint) -> Mapping[str, object]:
    """Phi-3's config.json of the same network."""
    model, config = source.architecture, source.config
    if model.rope is None:
        raise AssertionError("a network without rotary embeddings was refused before")
    kept = {key: config[key] for key in KEPT if key in config}
    return {
        **kept,
        **{key: config.get(key) for key in TOKENS},
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "num_key_value_heads": model.kv_heads,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tied,
        "original_max_position_embeddings": model.context,
        "rope_parameters": {
            "rope_theta": model.rope.theta,
            "rope_type": "default",
            "partial_rotary_factor": 1.0,
        },
        "sliding_window": model.layers[0].attention.window,
    }
