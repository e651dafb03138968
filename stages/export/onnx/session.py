"""`ingot.json`: what a runtime session must know of an exported model, so that it never reads the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...model.checkpoint import settings
from .build import ENCODER_FILE, MODEL_FILE
from .networks import LOGITS_FROM, PAST, PRESENT
from .seq2seq import CROSS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...model.families import Architecture, Outline
    from .graph import Graph
    from .linear import Form

SCHEMA = "ingot/session/v1"
# The oldest onnxruntime whose CPU kernels compute all that is written here. Tried: 1.23.2, which lacks some,
# and 1.24.1, 1.26.0 and 1.31.1, which agree.
ONNXRUNTIME = ">=1.24"
# Processors without an int8 dot product add pairs of products in 16 bits; this makes them widen the weights.
EXACT_INT8 = {"session.x64quantprecision": "1"}
# What onnxruntime makes of DequantizeLinear in blocks in front of a product.
BLOCK_ACCURACY = "session.qdq_matmulnbits_accuracy_level"


@dataclass(frozen=True)
class Heads:
    """What attention is made of. layers: that keep keys and values, as many heads of them, each so wide."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @staticmethod
    def of(model: Architecture) -> Heads:
        """Those of a known network."""
        return Heads(len(model.layers), model.heads, model.kv_heads, model.head_dim)


def session_json(
    model: Outline,
    heads: Heads,
    graphs: Mapping[str, Graph],
    form: Form,
    directory: Path,
    opset: int,
    ir_version: int,
) -> dict[str, object]:
    """The content of `ingot.json`.

    graphs: by file; what is said of inputs and outputs is of model.onnx, and below `encoder` of the other.
    directory: where config.json and generation_config.json lie, which name the special tokens.
    session_options: config entries that a session should set for exact results.
    """
    ids = special_ids(directory)
    graph = graphs[MODEL_FILE]
    has_past = PAST.format(layer=0, part="key") in graph.input_names
    has_logits_from = any(value.name == LOGITS_FROM for value in graph.structure.input)
    has_int8 = any(each.has_operator("QuantizeLinear") for each in graphs.values())
    # int8 beside int8 is exact without, and onnxruntime has no kernel for int8 beside the widened weights.
    options = EXACT_INT8 if has_int8 and not form.signed_activations else {}
    if form.quant_format == "qdq":
        options = {**options, BLOCK_ACCURACY: str(form.accuracy_level)}
    return {
        "schema": SCHEMA,
        "format": "onnx",
        "task": model.task,
        "model_type": model.model_type,
        "layers": heads.layers,
        "hidden": model.hidden,
        "heads": heads.heads,
        "kv_heads": heads.kv_heads,
        "head_dim": heads.head_dim,
        "vocabulary": model.vocabulary,
        "context": model.context,
        **ids,
        "inputs": list(graph.input_names),
        "outputs": list(graph.output_names),
        "past": PAST if has_past else None,
        "present": PRESENT if has_past else None,
        "logits_from": LOGITS_FROM if has_logits_from else None,
        **(_halves(model, graphs[ENCODER_FILE], directory) if ENCODER_FILE in graphs else {}),
        "session_options": options,
        "requires": {
            "onnxruntime": ONNXRUNTIME,
            "opset": opset,
            "ir_version": ir_version,
            "domains": sorted({domain for each in graphs.values() for domain in each.domains}),
        },
    }


def _halves(model: Outline, graph: Graph, directory: Path) -> dict[str, object]:
    """What only an encoder-decoder has: its other graph, the names of what goes from one to the other, the
    token that a target begins with, and the one that must come first behind it, None for any.
    """
    found = settings(directory)
    return {
        "encoder": {
            "file": ENCODER_FILE,
            "context": model.source_context or 0,
            "inputs": list(graph.input_names),
            "outputs": list(graph.output_names),
        },
        "cross": CROSS,
        "decoder_start_id": found.get("decoder_start_token_id", model.decoder_start),
        "first_id": found.get("forced_bos_token_id"),
    }


def special_ids(directory: Path) -> dict[str, object]:
    """`bos_id`, `eos_ids` and `pad_id`."""
    merged = settings(directory)
    ends = merged.get("eos_token_id")
    return {
        "bos_id": merged.get("bos_token_id"),
        "eos_ids": ends if isinstance(ends, list) else [] if ends is None else [ends],
        "pad_id": merged.get("pad_token_id"),
    }
