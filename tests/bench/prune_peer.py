"""llm-compressor's SparseGPT or Wanda, for `bench_prune.py`; the interpreter that has it runs this file.

    PYTHON -I prune_peer.py JOB      # the job names model, method, pattern, samples and where to save

The output head is put back as it was: 0.14.0.1 prunes it in spite of `ignore: [lm_head]`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(job: Path) -> None:
    """Prunes on one thread, saves the model, and writes the CPU seconds of the pruning alone."""
    import torch
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from transformers import AutoModelForCausalLM

    asked = json.loads(job.read_text("utf-8"))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=asked["dtype"])
    head = model.lm_head.weight.detach().clone()
    modifier = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}[asked["method"]]
    recipe = modifier(
        sparsity=0.5, mask_structure=asked["pattern"] or "0:0", targets=["Linear"], ignore=["lm_head"]
    )
    loader = torch.utils.data.DataLoader(asked["samples"], batch_size=1, collate_fn=batch)
    busy = time.process_time()
    oneshot(model=model, recipe=[recipe], dataset=loader, num_calibration_samples=len(asked["samples"]))
    took = {
        "cpu_seconds": time.process_time() - busy,
        "head_pruned": not torch.equal(model.lm_head.weight, head),
    }
    model.lm_head.weight.data.copy_(head)
    model.save_pretrained(asked["output"])
    (Path(asked["output"]) / "took.json").write_text(json.dumps(took), "utf-8")


def batch(samples: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Samples of one length as tensors, int64 [batch, length]."""
    import torch

    ids = torch.tensor(samples)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
