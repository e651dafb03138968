"""`finetune.lora`: what it changes, and that its adapter is read as PEFT's are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ingot.artifacts.errors import InputError, RecipeError
from ingot.artifacts.tensors import TensorSource
from ingot.stages.finetune import lora
from ingot.stages.finetune.low_rank import _is_map
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.train.network import Network

STAGE = "finetune.lora"
LEARN = {"window": 16, "batch_size": 4, "steps": 8, "learning_rate": 2e-2}


def weights(directory) -> dict[str, np.ndarray]:
    tensors = TensorSource.open([directory / "model.safetensors"])
    return {name: tensors.float32(name) for name in tensors.names()}


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "mixtral"])
def test_changes_are_of_the_rank_that_was_asked_for_and_of_maps_alone(
    family, tiny_checkpoint, text_file, run_stage
):
    source = tiny_checkpoint(family)
    made = run_stage(STAGE, {"model": source}, training_text=str(text_file), rank=2, **LEARN)
    assert made.facts["trained_steps"] > 0
    before, after = weights(source), weights(made.path)
    changed = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    assert len(changed) == made.facts["adapted_weights"]
    assert not any(word in name for name in changed for word in ("embed", "wte", "lm_head", "norm"))
    for name in changed:
        values = np.linalg.svd(after[name] - before[name], compute_uv=False)
        assert values[1] > 0
        assert values[2] < 1e-4 * values[0], name


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_adapter_folded_by_fuse_lora_gives_what_was_written(
    family, tiny_checkpoint, text_file, run_stage
):
    source = tiny_checkpoint(family)
    made = run_stage(
        STAGE, {"model": source}, training_text=str(text_file), write_adapter=True, alpha=12.0, **LEARN
    )
    adapter = run_stage("load.adapter", {}, adapter=str(made.path / "adapter"))
    folded = run_stage("fuse.lora", {"model": source, "adapter1": adapter}, adapters=["adapter1"])
    expected, found = weights(folded.path), weights(made.path)
    assert made.facts["trained_steps"] > 0
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_only_and_ignore_choose_weights(tiny_checkpoint, text_file, run_stage):
    source = tiny_checkpoint("llama")
    made = run_stage(
        STAGE, {"model": source}, training_text=str(text_file), only=["*.mlp.*"], ignore=["*.1.mlp.up*"],
        **LEARN,
    )  # fmt: skip
    before, after = weights(source), weights(made.path)
    changed = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    expected = {f"model.layers.{i}.mlp.{m}_proj.weight" for i in (0, 1) for m in ("up", "down", "gate")}
    assert changed == expected - {"model.layers.1.mlp.up_proj.weight"}


def test_pruned_weights_stay_pruned(tiny_checkpoint, text_file, run_stage):
    pruned = run_stage("prune.magnitude", {"model": tiny_checkpoint("llama")}, pattern="2:4")
    made = run_stage(STAGE, {"model": pruned}, training_text=str(text_file), **LEARN)
    assert made.facts["trained_steps"] > 0
    before, after = weights(pruned.path), weights(made.path)
    for name in pruned.facts["sparsity_by_weight"]:
        assert (after[name][before[name] == 0] == 0).all()
        assert not np.array_equal(after[name], before[name])
    with pytest.raises(RecipeError, match="an adapter cannot keep its zeros"):
        run_stage(STAGE, {"model": pruned}, training_text=str(text_file), write_adapter=True, **LEARN)


def test_what_is_measured_is_rounded_as_it_is_written(tiny_checkpoint):
    from ingot.stages.finetune.low_rank import LowRank

    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    change = LowRank(weight, 2, 0.5, torch.bfloat16, turned=False, kept=None)
    with torch.no_grad():
        change.up.normal_()
    exact = weight + 0.5 * change.up @ change.down
    torch.testing.assert_close(change(weight), exact)
    torch.testing.assert_close(change.eval()(weight), exact.bfloat16().float())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alpha": 0.0}, "alpha: 0 changes nothing"),
        ({"freeze": ["*"]}, "low-rank changes train alone"),
        ({"only": ["*.nothing"]}, r"finetune.only: '\*.nothing' matches no weight"),
        ({"ignore": ["*"]}, "no weight would be changed"),
    ],
)
def test_values_that_change_nothing_are_refused(params, message, tiny_checkpoint, text_file, run_stage):
    with pytest.raises(RecipeError, match=message):
        run_stage(STAGE, {"model": tiny_checkpoint("llama")}, training_text=str(text_file), **LEARN, **params)


def test_encoders_are_refused(tiny_checkpoint, text_file, run_stage):
    with pytest.raises(InputError, match="predicts no next token"):
        run_stage(STAGE, {"model": tiny_checkpoint("bert")}, training_text=str(text_file))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "t5"])
def test_patterns_of_no_weight_are_refused_from_headers_and_those_of_the_network_are_not(
    family, tiny_checkpoint, text_file
):
    source = tiny_checkpoint(family)
    network = Network.load(Checkpoint.open(source)).module
    names = [f"{name}.weight" for name, module in network.named_modules() if _is_map(module)]

    def plan(**patterns):
        lora.preflight(lora.LoraParams(training_text=str(text_file), **patterns), {"model": source})

    plan(only=tuple(names), ignore=tuple(names))
    for key in ("only", "ignore"):
        with pytest.raises(RecipeError, match=rf"finetune\.{key}: '\*\.nothing' matches no weight"):
            plan(**{key: ("*.nothing",)})
