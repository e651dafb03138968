"""`fuse.qkv`: transformers' Phi-3 computes what Llama did, of the same bits; others are refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ingot.artifacts.errors import InputError
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "fuse.qkv"


def logits(directory: Path) -> torch.Tensor:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.arange(4, 52).reshape(2, 24) * 7 % 320
    with torch.inference_mode():
        found: torch.Tensor = model(ids).logits
    return found


@pytest.fixture
def mistral(tiny_checkpoint: Any, tmp_path: Path) -> Path:
    """A network that sees seven positions."""
    directory = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "mistral")
    config = json.loads((directory / "config.json").read_text())
    changed = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 7}
    dropped = ("attention_bias", "mlp_bias", "pretraining_tp")
    config = {key: value for key, value in {**config, **changed}.items() if key not in dropped}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("family", ["llama", "llama-tied", "mistral"])
def test_phi3_computes_what_the_network_did(
    family: str, tiny_checkpoint: Any, mistral: Path, run_stage: Any
) -> None:
    directory = mistral if family == "mistral" else tiny_checkpoint(family)
    made = run_stage(STAGE, {"model": directory})
    expected, found = logits(directory), logits(made.path)
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    assert json.loads((made.path / "config.json").read_text())["model_type"] == "phi3"
    before, after = load_file(directory / "model.safetensors"), load_file(made.path / "model.safetensors")
    layer = "model.layers.1"
    parts = [before[f"{layer}.self_attn.{role}_proj.weight"] for role in "qkv"]
    assert torch.equal(after[f"{layer}.self_attn.qkv_proj.weight"], torch.cat(parts))
    halves = [before[f"{layer}.mlp.{role}_proj.weight"] for role in ("gate", "up")]
    assert torch.equal(after[f"{layer}.mlp.gate_up_proj.weight"], torch.cat(halves))
    assert sum(value.numel() for value in after.values()) == sum(value.numel() for value in before.values())
    assert len(after) == len(before) - 6
    loaded = run_stage("load", {}, model=str(made.path))
    assert loaded.facts == made.facts


def test_half_precision_and_shards_keep_their_bits(tiny_checkpoint: Any, run_stage: Any) -> None:
    whole = run_stage(STAGE, {"model": tiny_checkpoint("llama", dtype="bfloat16")})
    sharded = run_stage(STAGE, {"model": tiny_checkpoint("llama", dtype="bfloat16", max_shard_size="80KB")})
    first, second = (load_file(made.path / "model.safetensors") for made in (whole, sharded))
    assert first.keys() == second.keys()
    assert all(
        value.dtype == torch.bfloat16 and torch.equal(value, second[name]) for name, value in first.items()
    )


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("qwen2", "q_proj has a bias"), ("qwen3", "not as wide as its states"),
        ("gemma", "no decoder with root-mean-square norms"), ("phi3", "one map already"),
        ("gpt2", "no decoder with root-mean-square norms"), ("mixtral", "no gate of its own"),
        ("bert", "no decoder with root-mean-square norms"),
    ],
)  # fmt: skip
def test_others_are_refused_with_the_reason(
    family: str, reason: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    with pytest.raises(InputError, match=f"^{family}: it cannot be stored as Phi-3, since .*{reason}"):
        run_stage(STAGE, {"model": tiny_checkpoint(family)})
