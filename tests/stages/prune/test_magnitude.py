"""`prune.magnitude` by row, weight, pattern and all weights at once, against sorting in numpy."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "prune.magnitude"


def layer_names(found: Any) -> list[str]:
    return [linear.name for linear in found.before.architecture.linears if linear.layer is not None]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bert", "mixtral", "t5", "llama-tied"])
@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_of_a_pattern_at_most_half_of_every_group_stays_and_the_larger_half(
    family: str, pattern: str, prune: Any
) -> None:
    found, group = prune(family, STAGE, pattern=pattern), int(pattern[-1])
    turned = {each.name for each in found.before.architecture.linears if each.stored_in_out}
    assert sorted(found.tensors) == sorted(layer_names(found))
    for name in layer_names(found):
        before = found.before.tensors.float32(name)
        before = (before.T if name in turned else before).reshape(-1, group)
        after = found.weight(name).reshape(-1, group)
        stays = after != 0
        assert (stays.sum(1) == group // 2).all()
        assert np.array_equal(after[stays], before[stays])
        lowest_kept = np.where(stays, np.abs(before), np.inf).min(1)
        assert (lowest_kept >= np.where(stays, 0, np.abs(before)).max(1)).all()
        assert found.tensors[name]["pattern"] == pattern


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_rows_weights_and_the_whole_model_lose_their_least_entries(sparsity: float, prune: Any) -> None:
    by_row, by_weight, overall = (
        prune("llama", STAGE, sparsity=sparsity, scope=scope) for scope in ("row", "tensor", "global")
    )
    every = np.concatenate([
        np.abs(overall.before.tensors.float32(name)).ravel() for name in layer_names(overall)
    ])  # fmt: skip
    limit = np.sort(every)[round(sparsity * every.size) - 1]
    for name in layer_names(by_row):
        before = np.abs(by_row.before.tensors.float32(name))
        width = before.shape[1]
        assert ((by_row.weight(name) == 0).sum(1) == round(sparsity * width)).all()
        least = np.sort(before, axis=None)[round(sparsity * before.size) - 1]
        assert np.array_equal(by_weight.weight(name) == 0, before <= least)
        assert np.array_equal(overall.weight(name) == 0, before <= limit)
    assert overall.artifact.facts["sparsity"] == pytest.approx(sparsity, abs=1e-5)


def test_of_one_threshold_exactly_the_count_goes_where_many_entries_are_equal() -> None:
    from ingot.stages.prune.threshold import Threshold

    rng = np.random.default_rng(0)
    sizes = {name: rng.integers(1, 5, (7, 9)) / 4 for name in ("one", "two", "three")}
    weights = {
        name: (value * rng.choice([-1, 1], value.shape)).astype(np.float32) for name, value in sizes.items()
    }
    order = np.argsort(np.concatenate([value.ravel() for value in sizes.values()]), kind="stable")
    for count in (0, 1, 17, 100, 188, 189):
        threshold = Threshold(weights, weights.__getitem__, count)
        made = np.concatenate([threshold.prune(name, value).ravel() for name, value in weights.items()])
        assert sorted(np.flatnonzero(made == 0)) == sorted(order[:count])


def test_counted_facts_agree_with_the_file(prune: Any) -> None:
    found = prune("llama", STAGE, sparsity=0.4, overrides={"*.down_proj.weight": {"pattern": "2:4"}})
    stored = load_file(found.artifact.path / "model.safetensors")
    facts = found.artifact.facts
    zeros = {name: int((stored[name] == 0).sum()) for name in layer_names(found)}
    total = sum(stored[name].size for name in zeros)
    assert facts["sparsity"] == pytest.approx(sum(zeros.values()) / total, abs=1e-6)
    assert facts["pruned_parameters"] == total
    for name, count in zeros.items():
        assert facts["sparsity_by_weight"][name] == pytest.approx(count / stored[name].size, abs=1e-6)
    assert facts["sparsity_by_weight"]["model.layers.0.mlp.down_proj.weight"] == 0.5
    assert found.tensors["model.layers.0.mlp.up_proj.weight"]["sparsity"] == pytest.approx(0.4, abs=1e-3)


def test_what_is_ignored_or_no_linear_weight_of_a_layer_stays_bit_equal(prune: Any) -> None:
    found = prune("llama", STAGE, ignore=["*.down_proj.weight"])
    before = load_file(found.directory / "model.safetensors")
    after = load_file(found.artifact.path / "model.safetensors")
    assert before.keys() == after.keys()
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert same == before.keys() - set(found.tensors)
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"} <= same


def test_only_names_what_is_pruned_and_an_output_head_only_then(prune: Any) -> None:
    found = prune("llama", STAGE, only=["lm_head.weight", "*.0.mlp.*"])
    assert set(found.tensors) == {"lm_head.weight"} | {
        f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")
    }


def test_a_bfloat16_checkpoint_stays_one(prune: Any, tiny_checkpoint: Any) -> None:
    found = prune(tiny_checkpoint("llama", "bfloat16"), STAGE)
    for name in found.before.tensors.names():
        assert found.after.tensors.info(name).dtype == found.before.tensors.info(name).dtype == "BF16"
    assert found.artifact.facts["sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_transformers_loads_what_was_pruned(prune: Any) -> None:
    import torch
    import transformers

    found = prune("qwen2", STAGE, pattern="2:4")
    model = transformers.AutoModelForCausalLM.from_pretrained(found.artifact.path, dtype="float32")
    weight = model.state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert float((weight == 0).float().mean()) == 0.5
    with torch.inference_mode():
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sparsity": 1.5}, "prune.sparsity: 1.5 is above 1"),
        ({"sparsity": 1.0}, "prune.sparsity: 1.0 is not above 0 and below 1"),
        ({"sparsity": 0}, "is not above 0 and below 1"),
        ({"sparsity": -0.1}, "prune.sparsity: -0.1 is below 0"),
        ({"pattern": "3:4"}, "prune.pattern: '3:4' is not one of 2:4, 4:8"),
        ({"pattern": "2:4", "sparsity": 0.5}, "sparsity and pattern are two targets"),
        ({"pattern": "2:4", "scope": "row"}, "two ways to compare entries"),
        ({"scope": "global", "overrides": {"*": {"sparsity": 0.1}}}, "leaves none a sparsity of its own"),
        ({"ignore": ["*.fc9.weight"]}, r"prune.ignore: '\*\.fc9\.weight' matches no weight"),
        ({"only": ["*.fc9.weight"]}, r"prune.only: '\*\.fc9\.weight' matches no weight"),
        ({"overrides": {"*.fc9.*": {"sparsity": 0.1}}}, r"prune.overrides: '\*\.fc9\.\*' matches no weight"),
        ({"overrides": {"*": {"sparsty": 0.1}}}, "did you mean sparsity"),
        ({"overrides": {"*": {"sparsity": 2}}}, "2 is not above 0 and below 1"),
        ({"overrides": {"*": {"pattern": "2:3"}}}, "'2:3' is not one of 2:4, 4:8"),
        ({"overrides": {"*": {}}}, "changes nothing"),
        ({"ignore": ["*"]}, "no weight would be pruned"),
    ],
)
def test_what_cannot_be_done_is_refused(params: Any, message: str, prune: Any) -> None:
    with pytest.raises(RecipeError, match=message):
        prune("llama", STAGE, **params)


def test_groups_that_do_not_divide_a_row_are_refused_with_its_name(prune: Any, tmp_path: Path) -> None:
    import transformers
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=64, hidden_size=24, intermediate_size=36, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "odd")
    with pytest.raises(RecipeError, match=r"groups of 8 do not divide the 36 inputs of .*down_proj"):
        prune(tmp_path / "odd", STAGE, pattern="4:8")
    shutil.rmtree(tmp_path / "odd")
