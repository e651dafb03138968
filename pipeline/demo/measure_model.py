"""Measure the bundled model on a held-out text: its perplexity, the unigram's, and after naive rounding.

    python -m ingot.pipeline.demo.measure_model --model DIR --text evaluation.jsonl

These are the figures that the model's card states. They are taken in plain torch, without any of Ingot's
stages, so that they can serve as an independent check of the pipeline's own numbers.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

WINDOW = 256


def unigram_perplexity(windows: list[list[int]]) -> float:
    """Return the perplexity of the tokens' own frequencies, the best that a model without context can do."""
    counts = Counter(token for window in windows for token in window[1:])
    total = counts.total()
    return math.exp(-sum(count / total * math.log(count / total) for count in counts.values()))


def perplexity(model: LlamaForCausalLM, windows: list[list[int]]) -> float:
    """Return exp(sum of negative log-likelihoods / tokens), predicting all but a window's first token."""
    import torch

    total, tokens = 0.0, 0
    with torch.inference_mode():
        for window in windows:
            ids = torch.tensor([window])
            total += float(model(input_ids=ids, labels=ids).loss) * (len(window) - 1)
            tokens += len(window) - 1
    return math.exp(total / tokens)


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Round a weight [out, in] to 2**bits even steps from each row's least to its greatest value."""
    low, high = weight.aminmax(dim=1, keepdim=True)
    scale = (high - low) / (2**bits - 1)
    nearest: torch.Tensor = ((weight - low) / scale).round() * scale + low
    return nearest


def with_rounded_linears(model: LlamaForCausalLM, bits: int) -> LlamaForCausalLM:
    """Return a copy with rounded linear layers; the embedding and the output tied to it stay."""
    import torch

    changed = copy.deepcopy(model)
    for module in changed.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = rounded(module.weight.data, bits)
    return changed


def main() -> None:
    """Read the arguments and print the figures."""
    parser = argparse.ArgumentParser(description="Measure Ingot's bundled demonstration model.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model and its tokenizer")
    parser.add_argument("--text", type=Path, required=True, help="held-out documents as JSON lines")
    arguments = parser.parse_args()

    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    lines = arguments.text.read_text(encoding="utf-8").splitlines()
    documents = [tokenizer.encode(json.loads(line)["text"]).ids for line in lines]
    cut = [ids[start : start + WINDOW] for ids in documents for start in range(0, len(ids), WINDOW)]
    windows = [window for window in cut if len(window) > 1]
    model = LlamaForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()

    print(f"{len(documents)} documents, {len(windows)} windows, {sum(map(len, windows))} tokens")
    print(f"unigram perplexity        {unigram_perplexity(windows):8.2f}")
    print(f"model perplexity          {perplexity(model, windows):8.2f}")
    for bits in (8, 4, 3, 2):
        print(f"linear layers at {bits} bits   {perplexity(with_rounded_linears(model, bits), windows):8.2f}")


if __name__ == "__main__":
    main()
