"""Train the bundled demonstration model: a byte-level BPE tokenizer and a 4.2 million parameter Llama.

    python -m ingot.pipeline.demo.train_model --text TRAIN.txt --out DIR

The text is in WikiText's form, where an article begins at a line ` = Title = `. The architecture is Llama's
(Touvron et al. 2023, arXiv:2302.13971) with grouped key/value heads; the optimiser is AdamW (Loshchilov and
Hutter 2019) with a linear warm-up and a cosine decay. The file also runs alone: it imports nothing of Ingot.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
UNK, BOS, EOS, PAD = range(4)
VOCABULARY = 4096
CONTEXT = 256
BATCH = 8
PEAK_LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 100
CHECKPOINT_SECONDS = 120
TITLE = re.compile(r" = [^=].* = ")


def articles(text: str) -> list[str]:
    """Split WikiText into articles, each its non-empty lines without surrounding blanks, joined by newlines.

    An article begins at a line ` = Title = ` between two blank lines. Sections have more than one `=` a side;
    a formula that looks like a title stands among lines of text. What precedes the first title is left out.
    """
    lines = ["", *text.split("\n"), ""]
    found: list[list[str]] = []
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if TITLE.fullmatch(line) and not before.strip() and not after.strip():
            found.append([])
        if found and line.strip():
            found[-1].append(line.strip())
    return ["\n".join(kept) for kept in found]


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """Learn a byte-level BPE of VOCABULARY entries; encoding with special tokens puts `<s>` in front.

    WikiText's own text has `<unk>` for a rare word, so that is one token; bytes need no such entry.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """Write tokenizer.json and the tokenizer_config.json by which transformers' AutoTokenizer finds it."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": SPECIAL_TOKENS[UNK],
        "bos_token": SPECIAL_TOKENS[BOS],
        "eos_token": SPECIAL_TOKENS[EOS],
        "pad_token": SPECIAL_TOKENS[PAD],
        "padding_side": "left",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def build_model() -> LlamaForCausalLM:
    """Return the untrained model: 4 layers of width 256, 4 query and 2 key/value heads, tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def save_model(model: LlamaForCausalLM, out: Path) -> None:
    """Write a bf16 copy of the model, each file by a rename, so that a run cut off leaves a usable model."""
    import torch
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    staging = out / ".new"
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(staging)
    for path in sorted(staging.iterdir()):
        path.replace(out / path.name)
    shutil.rmtree(staging)


def batches(stream: torch.Tensor, seed: int) -> Iterator[torch.Tensor]:
    """Yield [BATCH, CONTEXT] windows of the token stream without end.

    Every epoch cuts the stream at a new random offset and visits its windows in a new random order, so that a
    document is seen from many starting points.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    while True:
        offset = int(torch.randint(CONTEXT, (1,), generator=generator))
        count = (len(stream) - offset) // CONTEXT
        windows = stream[offset : offset + count * CONTEXT].view(count, CONTEXT)
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - BATCH + 1, BATCH):
            yield windows[order[start : start + BATCH]]


def learning_rate(step: int, steps: int) -> float:
    """Return the rate at a step: linear warm-up to the peak, then a cosine down to a twentieth of it."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LEARNING_RATE * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * progress)))


def train(model: LlamaForCausalLM, stream: torch.Tensor, tokens: int, seed: int, out: Path) -> None:
    """Train in place, in bf16 autocast, on `tokens` tokens of the stream; print progress, save to `out`."""
    import torch

    decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    plain = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    steps = tokens // (BATCH * CONTEXT)
    started = saved = time.monotonic()
    mean_loss = 0.0
    for step, batch in zip(range(steps), batches(stream, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean_loss = loss.item() if step == 0 else 0.98 * mean_loss + 0.02 * loss.item()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            seconds = time.monotonic() - started
            rate = (step + 1) * BATCH * CONTEXT / seconds
            print(
                f"step {step + 1} of {steps}  loss {mean_loss:.3f}  {rate:.0f} tokens/s  {seconds:.0f} s",
                flush=True,
            )
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_model(model, out)
            saved = time.monotonic()
    save_model(model, out)


def main() -> None:
    """Read the arguments, train the tokenizer and then the model, and leave both in one folder."""
    parser = argparse.ArgumentParser(description="Train Ingot's bundled demonstration model.")
    parser.add_argument("--text", type=Path, required=True, help="training text in WikiText's form")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--tokens", type=int, default=6_000_000, help="tokens to train on, repeats counted")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; they change the rounding")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the order of windows")
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(arguments.seed)
    documents = articles(arguments.text.read_text(encoding="utf-8"))
    tokenizer = train_tokenizer(documents)
    save_tokenizer(tokenizer, arguments.out)
    encoded = tokenizer.encode_batch(documents)
    stream = torch.tensor([token for document in encoded for token in (*document.ids, EOS)])
    print(f"{len(documents)} articles, {len(stream)} tokens", flush=True)
    train(build_model(), stream, arguments.tokens, arguments.seed, arguments.out)


if __name__ == "__main__":
    main()
