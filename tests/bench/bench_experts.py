"""How long onnxruntime takes to open a decoder with many experts a layer: in one graph and in groups.

    python tests/bench/bench_experts.py [--experts N ...]

Exports Qwen3-MoE models of six layers and tiny widths, whose cost is in their graphs, not in their weights,
as `export.onnx` writes them and with all experts of a layer in one graph; CPU seconds of opening a session,
and CPU milliseconds of a prefill of 64 tokens and of a step. Bar: with 128 experts, opening takes at most
twice what four times the 32 do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ingot.artifacts.manifest import Artifact, ArtifactRecord
from ingot.artifacts.store import Store
from ingot.stages import base
from ingot.stages.export.onnx import feed_forward
from ingot.targets.runtimes import onnx
from machine import described

RUNS = 10
SHAPE = {
    "hidden_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "num_experts_per_tok": 8, "tie_word_embeddings": True,
}  # fmt: skip


def export(source: Path, store: Store, most_together: int) -> Path:
    """The exported model's directory."""
    feed_forward.MOST_TOGETHER = most_together
    stage = base.get("export.onnx")
    with store.outbox() as outbox:
        given = {"model": Artifact("0" * 64, ArtifactRecord("checkpoint", (), {}), source)}
        context = base.Context(
            stage.params(), given, outbox, source, 0, 1, lambda _done, _total, _what: None, print
        )
        return outbox.publish("onnx", stage.run(context).facts).path


def measure(directory: Path) -> tuple[float, float, float]:
    """CPU seconds of opening, CPU milliseconds of a prefill and of a step."""
    start = time.process_time()
    session = onnx.open(directory, threads=1)
    opened = time.process_time() - start
    ids = np.random.default_rng(0).integers(0, session.info.vocabulary, (1, 64))
    _, past = session.step(ids, logits_from=-1)
    times = []
    for call in (lambda: session.step(ids, logits_from=-1), lambda: session.step(ids[:, :1], None, past)):
        start = time.process_time()
        for _ in range(RUNS):
            call()
        times.append((time.process_time() - start) / RUNS * 1e3)
    session.close()
    return opened, times[0], times[1]


def main() -> int:
    """Prints a line for each number of experts and form; 1 when the bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 32, 64, 128])
    experts = parser.parse_args().experts
    written = feed_forward.MOST_TOGETHER
    opened: dict[int, float] = {}
    with described(), tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "store")
        for count in experts:
            source = Path(folder) / str(count)
            make_mixture(source, count)
            for form, most in (("one graph", sys.maxsize), ("as written", written)):
                load, prefill, step = measure(export(source, store, most))
                print(f"{count:>4} experts, {form:<10}: open {load:6.2f} s, prefill {prefill:6.2f} ms, "
                      f"step {step:5.2f} ms", flush=True)  # fmt: skip
            opened[count] = load
    if {32, 128} <= opened.keys() and opened[128] > 2 * 4 * opened[32]:
        print(f"128 experts open in {opened[128]:.2f} s, more than 8 times the {opened[32]:.2f} s of 32")
        return 1
    return 0


def make_mixture(directory: Path, experts: int) -> None:
    """A Qwen3-MoE checkpoint with random weights and the bundled tokenizer."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(vocab_size=16384, max_position_embeddings=256, num_experts=experts, **SHAPE)
    Qwen3MoeForCausalLM(config).save_pretrained(directory)


if __name__ == "__main__":
    sys.exit(main())
