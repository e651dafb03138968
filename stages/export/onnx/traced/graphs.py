"""Which graphs a model of transformers becomes, with the samples that they are traced on.

No two sizes of a sample are alike, nor one or two, which some code treats apart: what a trace would fix then
shows as an error when other sizes are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..build import ENCODER_FILE, MODEL_FILE
from ..graph import Graph
from ..networks import LOGITS_FROM, PAST, PRESENT
from ..seq2seq import CROSS
from .modules import PARTS, CacheShape, Decoder, Encoder, Source, Target, cache_shapes
from .trace import Value, trace

if TYPE_CHECKING:
    from ....model.families import Outline

BATCH, SEQUENCE, PAST_TOKENS, SOURCE_TOKENS = 3, 4, 6, 7
BY_TOKEN = {0: "batch", 1: "sequence"}


@dataclass(frozen=True)
class Traced:
    """Graphs by file, and the caches that they take, layer by layer; none where there is no cache."""

    graphs: Mapping[str, Graph]
    caches: tuple[CacheShape, ...]

    @property
    def domains(self) -> tuple[str, ...]:
        """Operator sets beside ONNX's own."""
        return tuple(sorted({domain for graph in self.graphs.values() for domain in graph.domains}))


def trace_model(network: Any, model: Outline, caches: tuple[CacheShape, ...]) -> Traced:
    """The graphs of a model: one, or for a `seq2seq-lm` one that reads and one that writes.

    caches: those of :func:`find_caches`, or none for a causal language model's graph without one. Raises
    StageError for a model that cannot be traced.
    """
    if model.task == "encoder":
        return Traced({MODEL_FILE: _encoder(network, model)}, ())
    if model.task == "seq2seq-lm":
        return _pair(network, model, caches)
    return Traced({MODEL_FILE: _decoder(network, model, caches)}, caches)


def find_caches(network: Any, model: Outline) -> tuple[CacheShape, ...]:
    """The caches of a language model, found by running it; none where it keeps no keys and values, and of an
    encoder-decoder those of what is written.
    """
    from transformers import DynamicCache, EncoderDecoderCache

    if model.task == "encoder":
        return ()
    ids, mask = (value.sample for value in _tokens(model, "sequence", SEQUENCE))
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": True}
    cache = own = DynamicCache()
    if model.task == "seq2seq-lm":
        cache = EncoderDecoderCache(own, DynamicCache())
        given["decoder_input_ids"] = ids
    with torch.no_grad():
        try:
            network(**given, past_key_values=cache)
        except Exception:  # noqa: BLE001 - the model's own code: what it does not take, it keeps elsewhere
            return ()
    return cache_shapes(own)


def _encoder(network: Any, model: Outline) -> Graph:
    outputs = (Value("last_hidden_state", BY_TOKEN),)
    return trace(Encoder(network), _tokens(model, "sequence", SEQUENCE), outputs, model.model_type)


def _decoder(network: Any, model: Outline, caches: Sequence[CacheShape]) -> Graph:
    module = Decoder(network, len(caches))
    past = PAST_TOKENS if caches else 0
    ids, _ = _tokens(model, "sequence", SEQUENCE)
    mask = torch.ones(BATCH, past + SEQUENCE, dtype=torch.int64)
    # Padding on the left, so that a mask matters.
    mask[0, : past // 2] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, past:]
    inputs = (
        ids,
        Value("attention_mask", {0: "batch", 1: "total"}, mask),
        Value("position_ids", BY_TOKEN, positions),
        Value(LOGITS_FROM, {}, torch.zeros(1, dtype=torch.int64), np.zeros(1, np.int64)),
        *_cached(PAST, caches, "past", past),
    )
    kept = "kept" if module.keeps else "sequence"
    outputs = (Value("logits", {0: "batch", 1: kept}), *_present(caches))
    return trace(module, inputs, outputs, model.model_type)


def _pair(network: Any, model: Outline, caches: tuple[CacheShape, ...]) -> Traced:
    reader = Source(network)
    inputs = _tokens(model, "sequence", SOURCE_TOKENS)
    with torch.no_grad():
        _, *crossing = reader.eval()(*(value.sample for value in inputs))
    shapes = [(int(part.shape[1]), int(part.shape[3])) for part in crossing]
    crossed = tuple(map(CacheShape, shapes[::2], shapes[1::2]))
    names = _names(CROSS, len(crossed))
    given = [Value(name, {0: "batch", 2: "source"}) for name in names]
    outputs = (Value("last_hidden_state", BY_TOKEN), *given)
    source = trace(reader, inputs, outputs, model.model_type)
    ids, _ = _tokens(model, "sequence", SEQUENCE)
    mask = torch.ones(BATCH, SOURCE_TOKENS, dtype=torch.int64)
    mask[0, SOURCE_TOKENS // 2 :] = 0
    taken = (
        ids,
        Value("encoder_attention_mask", {0: "batch", 1: "source"}, mask),
        *_cached(PAST, caches, "past", PAST_TOKENS),
        *_cached(CROSS, crossed, "source", SOURCE_TOKENS),
    )
    outputs = (Value("logits", BY_TOKEN), *_present(caches))
    hidden = int(network.get_encoder().config.hidden_size)
    target = trace(Target(network, len(crossed), hidden), taken, outputs, model.model_type)
    return Traced({ENCODER_FILE: source, MODEL_FILE: target}, caches)


def _tokens(model: Outline, length_name: str, length: int) -> tuple[Value, Value]:
    """Token ids and a mask that is padding at the end of its first row."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.vocabulary, (BATCH, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    dimensions = {0: "batch", 1: length_name}
    return Value("input_ids", dimensions, ids), Value("attention_mask", dimensions, mask)


def _cached(pattern: str, caches: Sequence[CacheShape], axis: str, length: int) -> list[Value]:
    sizes = [size for shape in caches for size in (shape.key, shape.value)]
    generator = torch.Generator().manual_seed(1)
    return [
        Value(name, {0: "batch", 2: axis}, torch.randn(BATCH, heads, length, width, generator=generator))
        for name, (heads, width) in zip(_names(pattern, len(caches)), sizes, strict=True)
    ]


def _present(caches: Sequence[CacheShape]) -> list[Value]:
    return [Value(name, {0: "batch", 2: "total"}) for name in _names(PRESENT, len(caches))]


def _names(pattern: str, layers: int) -> list[str]:
    return [pattern.format(layer=layer, part=part) for layer in range(layers) for part in PARTS]
