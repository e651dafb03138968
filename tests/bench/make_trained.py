"""Trains a small model of another family than the bundled one, so that benchmarks do not rest on one family.

    python tests/bench/make_trained.py DIRECTORY --family gpt2 --text TRAIN.txt [--tokens N]

It has the bundled tokenizer, about 4 million parameters, and is trained in float32 on one thread: a few
hundred CPU seconds for half a million tokens. The text is in WikiText's form.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
import transformers
from ingot.pipeline.demo import MODEL
from ingot.pipeline.demo.train_model import CONTEXT, EOS, PAD, VOCABULARY, articles, batches
from ingot.stages.model.tokens import load_tokenizer

WIDTH, HEADS = 256, 4
SHARED = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": PAD}
FAMILIES = {
    "gpt2": transformers.GPT2Config(
        n_embd=WIDTH, n_layer=4, n_head=HEADS, n_positions=CONTEXT,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SHARED,
    ),
    "qwen3": transformers.Qwen3Config(
        hidden_size=WIDTH, intermediate_size=768, num_hidden_layers=4, num_attention_heads=HEADS,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        **SHARED,
    ),
}  # fmt: skip
PEAK_RATE, WARMUP = 2e-3, 50
BATCH = 4


def train(model: torch.nn.Module, stream: torch.Tensor, tokens: int) -> None:
    """AdamW with a linear warm-up and a linear decay to nothing; prints the loss now and then."""
    steps = tokens // (BATCH * CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1 - step / steps)
    )
    # The demonstration's batches have eight windows; halves of them make twice as many steps.
    halves = (half for batch in batches(stream, seed=0) for half in batch.split(BATCH))
    for step, batch in zip(range(steps), halves, strict=False):
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {steps}  loss {loss.item():.3f}", flush=True)


def main() -> None:
    """Writes the tokenizer and a bf16 checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--text", type=Path, required=True, help="training text in WikiText's form")
    parser.add_argument("--tokens", type=int, default=600_000, help="tokens to train on, repeats counted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options.directory.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(MODEL / name, options.directory / name)
    encoded = load_tokenizer(options.directory).encode_batch(articles(options.text.read_text("utf-8")))
    stream = torch.tensor([token for document in encoded for token in (*document.ids, EOS)])
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[options.family])
    print(f"{model.num_parameters() / 1e6:.1f}M parameters, {len(stream)} tokens")
    train(model, stream, options.tokens)
    model.to(torch.bfloat16).save_pretrained(options.directory)


if __name__ == "__main__":
    main()
