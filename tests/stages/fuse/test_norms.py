"""`fuse.norms`: transformers computes the same with gains of one; what cannot be folded stays and is said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ingot.artifacts.errors import InputError, StageError
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.sameness import outputs, require_same
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "fuse.norms"
# How many norms there are to fold: two a layer and the last one, where the head is of its own.
FAMILIES = {
    "llama": 5, "llama-tied": 4, "qwen3": 4, "gemma": 4, "phi3": 5, "phi": 3, "gpt2": 4, "gpt_neox": 5,
    "opt": 4, "qwen2_moe": 5, "t5": 12,
}  # fmt: skip


def logits(directory: Path) -> torch.Tensor:
    import transformers

    kind = json.loads((directory / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, kind).from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.arange(4, 52).reshape(2, 24) * 7 % 320
    target = {"decoder_input_ids": ids} if "t5" in kind.lower() else {}
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, **target).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_gives_the_same_logits_and_gains_are_one(
    family: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    directory = tiny_checkpoint(family)
    made = run_stage(STAGE, {"model": directory})
    expected = logits(directory)
    assert (logits(made.path) - expected).abs().max() < 2e-4 * expected.abs().max()
    assert made.facts["folded_norms"] == FAMILIES[family]
    before, after = load_file(directory / "model.safetensors"), load_file(made.path / "model.safetensors")
    assert before.keys() == after.keys()
    norm = Checkpoint.open(directory).architecture.layers[1].attention_norm
    assert torch.unique(after[norm.weight]).tolist() == [0.0 if family == "gemma" else 1.0]
    assert before[norm.weight].std() > 0.05
    if norm.bias is not None:
        assert torch.count_nonzero(after[norm.bias]) == 0, "its readers have biases, which take the shift in"


def test_a_shift_stays_over_its_gain_where_a_map_has_no_bias(tiny_checkpoint: Any, run_stage: Any) -> None:
    made = run_stage(STAGE, {"model": tiny_checkpoint("gpt_neox")})
    before = load_file(tiny_checkpoint("gpt_neox") / "model.safetensors")
    after = load_file(made.path / "model.safetensors")
    name = "gpt_neox.final_layer_norm"
    assert torch.allclose(after[f"{name}.bias"], before[f"{name}.bias"] / before[f"{name}.weight"], rtol=1e-6)


def test_a_gain_of_zero_with_such_a_shift_leaves_the_norm(
    tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    import shutil

    directory = shutil.copytree(tiny_checkpoint("gpt_neox"), tmp_path / "zero")
    tensors = load_file(directory / "model.safetensors")
    tensors["gpt_neox.final_layer_norm.weight"][3] = 0.0
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    notes: list[str] = []
    made = run_stage(STAGE, {"model": directory}, notes=notes)
    assert made.facts["folded_norms"] == FAMILIES["gpt_neox"] - 1
    assert any("final_layer_norm.weight stays as it is: it has gains of zero" in note for note in notes)
    expected = logits(directory)
    assert (logits(made.path) - expected).abs().max() < 2e-4 * expected.abs().max()


def test_what_is_left_is_said(tiny_checkpoint: Any, run_stage: Any) -> None:
    notes: list[str] = []
    run_stage(STAGE, {"model": tiny_checkpoint("llama-tied")}, notes=notes)
    assert notes == ["model.norm.weight stays as it is: it is read by more than maps that can take it in"]
    with pytest.raises(InputError, match="bert: no norm is read by maps alone"):
        run_stage(STAGE, {"model": tiny_checkpoint("bert")})


def test_half_precision_is_kept_where_it_is_asked_for(tiny_checkpoint: Any, run_stage: Any) -> None:
    directory = tiny_checkpoint("llama", dtype="bfloat16")
    whole, half = (run_stage(STAGE, {"model": directory}, dtype=dtype) for dtype in ("float32", "base"))
    expected, found = (load_file(made.path / "model.safetensors") for made in (whole, half))
    assert all(torch.equal(expected[name].bfloat16(), found[name]) for name in expected)
    assert json.loads((whole.path / "config.json").read_text())["dtype"] == "float32"
    assert half.facts["dtype"] == "bfloat16"


def test_the_check_sees_a_gain_that_was_folded_twice(tiny_checkpoint: Any, tmp_path: Path) -> None:
    import shutil

    directory = tiny_checkpoint("llama")
    broken = shutil.copytree(directory, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"] *= tensors["model.layers.0.input_layernorm.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"fuse\.norms changed what the network computes"):
        require_same(Checkpoint.open(directory), Checkpoint.open(broken), "fuse.norms")
    found = require_same(Checkpoint.open(directory), Checkpoint.open(directory), "nothing")
    assert (found.error, found.top1) == (0.0, 1.0)
    assert outputs(Checkpoint.open(directory)).shape == (41, 320)
