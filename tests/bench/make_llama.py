"""Makes the 60M-parameter Llama of the benchmarks from a config: random weights, the bundled tokenizer.

    python tests/bench/make_llama.py DIRECTORY

Speed, memory and size do not depend on what the weights say, so they are drawn, not trained; in float32, as
the checkpoint was that the figures of other tools were taken with.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ingot.pipeline.demo import MODEL
from ingot.stages.load.intake import inspect_source

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
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def make(directory: Path, **changes: object) -> int:
    """Writes the checkpoint unless it is there; gives its parameter count. changes: of the config."""
    if not all((directory / name).exists() for name in TOKENIZER):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        directory.mkdir(parents=True, exist_ok=True)
        LlamaForCausalLM(LlamaConfig(**{**CONFIG, **changes})).save_pretrained(directory)
        for name in TOKENIZER:
            shutil.copyfile(MODEL / name, directory / name)
    return inspect_source(directory).parameters


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    print(f"{make(arguments.directory) / 1e6:.1f}M parameters in {arguments.directory}")
