"""Makes a base and models tuned from it, as merges take them: random bfloat16 weights, tensor by tensor.

    python tests/bench/make_siblings.py DIRECTORY [--size 100M] [--models 3]

What merging costs does not depend on what weights say, but selection depends on how they are spread: those of
the base are normal with a deviation of 0.02, those of model1, model2 ... differ from it by normal steps of
0.002, rounded to bfloat16 as training would leave them. All are taken from one pool of normal numbers, from
another place of it for each tensor and model. The same call writes the same bytes. Parity is measured on
larger weights and steps in float32 (`WIDE`).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.artifacts.tensors import SafetensorsWriter, TensorShape
from ingot.pipeline.demo import MODEL

if TYPE_CHECKING:
    import torch

POOL = 1 << 24
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Spread:
    """How weights are drawn. deviation: of the base's.  step: of how far others are.  dtype: as stored."""

    deviation: float
    step: float
    dtype: str


TUNED = Spread(0.02, 0.002, "BF16")
WIDE = Spread(0.1, 0.1, "F32")
SIZES: dict[str, dict[str, int]] = {
    "1M": {"hidden": 128, "inner": 384, "layers": 2, "heads": 4, "kv": 2, "vocabulary": 4096},
    "10M": {"hidden": 256, "inner": 768, "layers": 8, "heads": 4, "kv": 2, "vocabulary": 8192},
    "100M": {"hidden": 768, "inner": 2048, "layers": 12, "heads": 12, "kv": 4, "vocabulary": 16384},
    "1.1B": {"hidden": 2048, "inner": 5632, "layers": 22, "heads": 32, "kv": 4, "vocabulary": 32000},
}


def make(directory: Path, size: str, models: int, spread: Spread = TUNED) -> list[Path]:
    """Writes base and siblings unless they are there; their directories, the base first."""
    names = ["base", *(f"model{number}" for number in range(1, models + 1))]
    paths = [directory / f"{size}-{name}" for name in names]
    if all((path / "model.safetensors").exists() for path in paths):
        return paths
    import torch

    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0))
    config = _config(SIZES[size])
    layout = [TensorShape(name, spread.dtype, shape) for name, shape in _shapes(SIZES[size])]
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(config, indent=1))
        for name in TOKENIZER:
            shutil.copyfile(MODEL / name, path / name)
    parts = [path / "model.safetensors.part" for path in paths]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(part.open("wb")) for part in parts]
        writers = [stack.enter_context(SafetensorsWriter(stream, layout)) for stream in streams]
        for tensor in layout:
            base = _drawn(pool, "base", tensor) * spread.deviation
            for name, writer in zip(names, writers, strict=True):
                values = (
                    base if name == "base" else torch.add(base, _drawn(pool, name, tensor), alpha=spread.step)
                )
                writer.write(tensor.name, _bytes(values, spread.dtype))
    for part in parts:
        part.rename(part.with_suffix(""))
    return paths


def _config(size: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": size["hidden"], "intermediate_size": size["inner"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"], "num_key_value_heads": size["kv"], "hidden_act": "silu",
        "vocab_size": size["vocabulary"], "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip


def _shapes(size: dict[str, int]) -> list[tuple[str, tuple[int, ...]]]:
    hidden, inner = size["hidden"], size["inner"]
    narrow = hidden // size["heads"] * size["kv"]
    block = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,), "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    outer = (size["vocabulary"], hidden)
    layers = [
        (f"model.layers.{layer}.{name}.weight", shape)
        for layer in range(size["layers"])
        for name, shape in block.items()
    ]
    last = [("model.norm.weight", (hidden,)), ("lm_head.weight", outer)]
    return [("model.embed_tokens.weight", outer), *layers, *last]


def _drawn(pool: torch.Tensor, model: str, tensor: TensorShape) -> torch.Tensor:
    digest = hashlib.sha256(f"{model} {tensor.name}".encode()).digest()
    start = int.from_bytes(digest[:8], "little") % POOL
    stop = start + tensor.count
    return pool.repeat(-(-stop // POOL))[start:stop].view(tensor.shape)


def _bytes(values: torch.Tensor, dtype: str) -> Any:
    import torch

    stored = torch.bfloat16 if dtype == "BF16" else torch.float32
    return values.to(stored).reshape(-1).view(torch.uint8).numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", choices=SIZES, default="100M")
    parser.add_argument("--models", type=int, default=3)
    arguments = parser.parse_args()
    print("\n".join(map(str, make(arguments.directory, arguments.size, arguments.models))))
