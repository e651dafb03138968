"""Llamas of a few numbers, written by hand: as many layers as wanted, and every way to store them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HIDDEN, FFN, VOCABULARY = 8, 12, 10
LAYER = {
    "input_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
    **{f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"},
    "mlp.gate_proj.weight": (FFN, HIDDEN),
    "mlp.up_proj.weight": (FFN, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, FFN),
}


def config(layers: int, *, tied: bool = False, **changed: object) -> dict[str, Any]:
    """The config.json of such a Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "dtype": "float32",
        **changed,
    }


def shapes(layers: int, *, tied: bool = False, vocabulary: int = VOCABULARY) -> dict[str, tuple[int, ...]]:
    """Its tensors."""
    found = {"model.embed_tokens.weight": (vocabulary, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(layers):
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER.items()}
    return found if tied else {**found, "lm_head.weight": (vocabulary, HIDDEN)}


def values(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Any]:
    """Random weights."""
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def tokenizer(
    tokens: Mapping[str, int], added: Mapping[str, Mapping[str, object]] | None = None
) -> dict[str, Any]:
    """A tokenizer.json of whole words; the first stands for others.

    added: properties of the tokens that are added ones.
    """
    unknown = next(iter(tokens))
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": tokens[token], "content": token, **usual, **properties}
            for token, properties in sorted((added or {}).items(), key=lambda item: tokens[item[0]])
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {
                token: number
                for token, number in tokens.items()
                if token == unknown or token not in (added or {})
            },
            "unk_token": unknown,
        },
    }


def save(
    directory: Path,
    settings: Mapping[str, object],
    weights: Mapping[str, Any],
    words: Mapping[str, object] | None = None,
    word_settings: Mapping[str, object] | None = None,
) -> Path:
    """A checkpoint directory; words, word_settings: tokenizer.json and tokenizer_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = int(str(settings["vocab_size"]))
    words = words or tokenizer({f"w{number}": number for number in range(rows)})
    (directory / "config.json").write_text(json.dumps(settings))
    (directory / "tokenizer.json").write_text(json.dumps(words))
    (directory / "tokenizer_config.json").write_text(json.dumps(word_settings or {}))
    save_file(dict(weights), directory / "model.safetensors", {"format": "pt"})
    return directory


def llama(directory: Path, layers: int = 2, seed: int = 0, *, tied: bool = False, **changed: object) -> Path:
    """A whole checkpoint; changed: keys of its config."""
    settings = config(layers, tied=tied, **changed)
    vocabulary = int(str(settings["vocab_size"]))
    return save(directory, settings, values(shapes(layers, tied=tied, vocabulary=vocabulary), seed))
