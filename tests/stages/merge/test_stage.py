"""`merge` and `merge.METHOD` as stages: what they write, and that both forms of a recipe are one merge."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import InputError
from ingot.stages import base
from safetensors.numpy import load_file

from .networks import config, save, shapes, tokenizer, values

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def weights(directory: Path) -> dict[str, Any]:
    return load_file(directory / "model.safetensors")


def expand(stage: str, values: Mapping[str, object], directory: Path) -> base.Expansion:
    found = base.get(stage).expand
    assert found is not None
    return found(values, directory, "load")


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "bert", "t5", "mixtral", "gptj"])
def test_a_linear_merge_is_the_weighted_mean_of_every_tensor(family: str, merged: Any, sibling: Any) -> None:
    a, b = sibling(family, "a"), sibling(family, "b")
    made = merged(
        "merge.linear", {"models": [{"model": str(a), "weight": 3}, {"model": str(b), "weight": 1.0}]}
    )
    left, right, found = weights(a), weights(b), weights(made.path)
    assert set(found) == set(left)
    for name, value in found.items():
        expected = 0.75 * left[name].astype(np.float64) + 0.25 * right[name].astype(np.float64)
        assert np.abs(value - expected).max() < 1e-6, name
    assert json.loads((made.path / "config.json").read_text())["model_type"] == family.partition("-")[0]
    assert (made.path / "tokenizer.json").read_bytes() == (a / "tokenizer.json").read_bytes()


def test_stacked_layers_are_a_network_that_transformers_loads(
    merged: Any, sibling: Any, tmp_path: Path
) -> None:
    import torch
    import transformers

    a, b = sibling("llama", "a"), sibling("llama", "b")
    (tmp_path / "stack.yaml").write_text(
        "merge_method: linear\nparameters: {weight: 1}\ndtype: bfloat16\nslices:\n"
        f"- sources: [{{model: {a}, layer_range: [0, 2]}}]\n"
        f"- sources: [{{model: {b}, layer_range: [0, 1]}}]\n"
    )
    made = merged("merge", {"config": "stack.yaml"})
    found = {name: value.float().numpy() for name, value in torch_weights(made.path).items()}
    left, right = weights(a), weights(b)
    for layer, (source, index) in enumerate([(left, 0), (left, 1), (right, 0)]):
        name = "mlp.up_proj.weight"
        expected = torch.from_numpy(source[f"model.layers.{index}.{name}"]).bfloat16().float().numpy()
        assert np.array_equal(found[f"model.layers.{layer}.{name}"], expected)
    model = transformers.AutoModelForCausalLM.from_pretrained(made.path)
    assert model.config.num_hidden_layers == 3
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()
    assert (made.facts["layers"], made.facts["dtype"]) == (3, "bfloat16")


def torch_weights(directory: Path) -> Any:
    from safetensors.torch import load_file as load

    return load(directory / "model.safetensors")


def test_both_forms_of_a_recipe_make_the_same_file(merged: Any, sibling: Any, tmp_path: Path) -> None:
    a, b, c = (sibling("llama", name) for name in "abc")
    (tmp_path / "ties.yaml").write_text(
        f"merge_method: ties\nbase_model: {c}\nmodels:\n"
        f"- model: {a}\n  parameters: {{weight: 0.6, density: 0.5}}\n"
        f"- model: {b}\n  parameters: {{weight: 0.4}}\nparameters: {{lambda: 0.9, int8_mask: true}}\n"
    )
    short = {"models": [{"model": str(a), "weight": 0.6, "density": 0.5}, {"model": str(b), "weight": 0.4}]}
    one = merged("merge", {"config": "ties.yaml"})
    other = merged("merge.ties", {**short, "base": str(c), "lambda": 0.9})
    level = merged("merge.ties", {**short, "base": str(c), "parameters": {"lambda": 0.9}})
    assert one.digest == other.digest == level.digest


def test_sharded_inputs_of_other_dtypes_are_merged(merged: Any, tiny_checkpoint: Any, sibling: Any) -> None:
    shards = tiny_checkpoint("llama", "bfloat16", "100KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 1
    other = sibling("llama", "a")
    made = merged("merge.linear", {"models": [{"model": str(other)}, {"model": str(shards)}], "weight": 1})
    import torch

    narrow = {
        name: torch.from_numpy(value).bfloat16().float().numpy()
        for name, value in weights(tiny_checkpoint("llama")).items()
    }
    # The first model's dtype is the output's; each input is widened exactly.
    for name, value in weights(made.path).items():
        assert value.dtype == np.float32
        assert np.abs(value - (weights(other)[name] + narrow[name]) / 2).max() < 1e-6


def test_nothing_is_published_for_models_that_do_not_fit(
    merged: Any, sibling: Any, tiny_checkpoint: Any
) -> None:
    models = [str(sibling("llama", "a")), str(tiny_checkpoint("qwen2"))]
    with pytest.raises(InputError, match=r"model2 \(.*\) is a Qwen2ForCausalLM, but model1"):
        merged("merge.linear", {"models": models, "weight": 1})


def test_weights_are_split_into_files_where_that_is_asked_for(merged: Any, tmp_path: Path) -> None:
    # An embedding and a head of 1.3 MB each.
    rows, words = 40_000, tokenizer({"a": 0, "b": 1})
    models = [
        str(
            save(tmp_path / name, config(1, vocab_size=rows), values(shapes(1, vocabulary=rows), seed), words)
        )
        for seed, name in enumerate("ab")
    ]
    whole = merged("merge.linear", {"models": models, "weight": 1})
    split = merged("merge.linear", {"models": models, "weight": 1, "max_shard_mb": 1})
    shards = sorted(split.path.glob("*.safetensors"))
    assert len(shards) >= 2
    index = json.loads((split.path / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index.values()) == {path.name for path in shards}
    joined = {name: value for path in shards for name, value in load_file(path).items()}
    assert {name: value.tobytes() for name, value in joined.items()} == {
        name: value.tobytes() for name, value in weights(whole.path).items()
    }


def test_a_filter_that_matches_nothing_is_noted(merged: Any, sibling: Any) -> None:
    notes: list[str] = []
    weight = [{"filter": "atn", "value": 2}, {"filter": "mlp", "value": 1}, {"value": 1}]
    merged("merge.linear", {"models": [str(sibling("llama", "a"))], "weight": weight}, notes)
    assert notes == ["the filter 'atn' of weight matches no tensor, so its value is never used"]


METHOD = """
from ingot.stages.merge.method import Method, Parameter

def merge(task, blocks):
    def kernel(block):
        return block.read(task.inputs[0].operand).mul_(task.parameters["factor"])
    return kernel

METHOD = Method("scaled", merge, summary="The first model, scaled", paper="", parameters=(
    Parameter("factor", "what it is multiplied by", default=1.0),
))
"""


def test_a_method_of_ones_own_is_read_from_a_python_file(merged: Any, sibling: Any, tmp_path: Path) -> None:
    a = sibling("llama", "a")
    (tmp_path / "scaled.py").write_text(METHOD)
    (tmp_path / "own.yaml").write_text(
        f"merge_method: scaled\nmodels: [{{model: {a}}}]\nparameters: {{factor: [2, 4]}}\n"
    )
    made = merged("merge", {"config": "own.yaml", "method_file": "scaled.py"})
    for name, value in weights(made.path).items():
        factor = 2 if "embed" in name or "layers.0" in name else 4
        assert np.array_equal(value, factor * weights(a)[name]), name
