"""Makes the 60M-parameter Llama of the benchmarks from a config: random weights, the bundled tokenizer.

    python tests/bench/make_llama.py DIRECTORY

Speed, memory and size do not depend on what the weights say, so they are drawn, not trained.
"""

from __future__ import annotations

import argparse
import importlib.resources
import shutil
from pathlib import Path

CONFIG = {
    "vocab_size": 16384,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 14,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


def make(directory: Path, *, layers: int = 14, dtype: str = "bfloat16") -> int:
    """Writes the checkpoint unless it is there; gives its parameter count."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**CONFIG, "num_hidden_layers": layers}))
    if not (directory / "model.safetensors").exists():
        directory.mkdir(parents=True, exist_ok=True)
        model.to(getattr(torch, dtype)).save_pretrained(directory)
        bundled = importlib.resources.files("ingot.pipeline.demo") / "wikitext-llama-4m"
        for name in ("tokenizer.json", "tokenizer_config.json"):
            with importlib.resources.as_file(bundled / name) as source:
                shutil.copy(source, directory / name)
    return int(model.num_parameters())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    print(f"{make(arguments.directory) / 1e6:.1f}M parameters in {arguments.directory}")
