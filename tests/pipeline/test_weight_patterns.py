"""Patterns that match no weight are refused while planning, at their line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """model: {model}
targets:
  cpu:
    quantize:
      method: {method}
      bits: 8
      {line}
"""


def graph(directory: Path, method: str, line: str) -> Any:
    from ingot.artifacts.yaml import parse_yaml
    from ingot.pipeline.assemble import graph_of
    from ingot.pipeline.recipe import read_recipe

    text = RECIPE.format(model=directory, method=method, line=line)
    return graph_of(read_recipe(parse_yaml(text, "ingot.yaml"), directory))


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('overrides: {"*.nope": {bits: 4}}', "overrides: '*.nope' matches no weight (ingot.yaml:7)"),
        ('ignore: ["*.nope"]', "ignore: '*.nope' matches no weight (ingot.yaml:7)"),
        ('overrides: {"*.q_proj.weight": {bits: 5}}', "5 is not one of 2, 3, 4, 8, 16 (ingot.yaml:7)"),
    ],
)
def test_what_fits_no_weight_is_refused_at_its_line(
    method: str, line: str, message: str, tiny_checkpoint: Any
) -> None:
    with pytest.raises(RecipeError) as caught:
        graph(tiny_checkpoint("llama"), method, line)
    assert message in str(caught.value)


def test_what_fits_passes(tiny_checkpoint: Any) -> None:
    line = 'overrides: {"*.0.self_attn.*": {bits: 4}}'
    assert graph(tiny_checkpoint("llama"), "gptq", line).targets


TRAINED = """model: {model}
targets: [cpu-fp32]
stages:
  thinner: {{stage: prune.magnitude, params: {{sparsity: 0.5}}}}
  learner:
    stage: {stage}
    from: {takes}
    params: {{training_text: {model}/config.json, {line}}}
"""
STAGES = {
    "finetune.full": "thinner",
    "finetune.lora": "thinner",
    "distill": "{model: thinner, teacher: load}",
    "prune.gradual": "thinner",
}


def trained(directory: Path, stage: str, line: str, **changes: str) -> Any:
    from ingot.artifacts.yaml import parse_yaml
    from ingot.pipeline.assemble import graph_of
    from ingot.pipeline.recipe import read_recipe

    text = TRAINED.format(model=directory, stage=stage, takes=STAGES[stage], line=line)
    for old, new in changes.items():
        text = text.replace(f"  {old}: {{stage: prune.magnitude, params: {{sparsity: 0.5}}}}", new)
    return graph_of(read_recipe(parse_yaml(text, "ingot.yaml"), directory))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("freeze", '["*.mpl.*"]', '["*.mlp.*"]'),
        ("groups", '{"*.nope*": {weight_decay: 0.1}}', '{"*.q_proj*": {weight_decay: 0.1}}'),
    ],
)
def test_what_fits_no_parameter_of_a_training_is_refused_at_its_line(
    stage: str, key: str, wrong: str, right: str, tiny_checkpoint: Any
) -> None:
    directory = tiny_checkpoint("llama")
    if (stage, key) == ("finetune.lora", "freeze"):
        with pytest.raises(RecipeError, match="freeze: low-rank changes train alone"):
            trained(directory, stage, f"{key}: {right}")
        return
    assert trained(directory, stage, f"{key}: {right}").targets
    with pytest.raises(RecipeError, match=rf"^learner\.{key}: .* matches no parameter") as caught:
        trained(directory, stage, f"{key}: {wrong}")
    assert caught.value.where == "ingot.yaml:8"


def test_what_stays_in_no_group_is_refused_and_what_a_merge_made_is_left_to_the_stage(
    tiny_checkpoint: Any,
) -> None:
    directory = tiny_checkpoint("llama")
    with pytest.raises(RecipeError, match=r"^learner\.freeze: nothing is left to train"):
        trained(directory, "finetune.full", 'freeze: ["*"]')
    merge = f"  thinner: {{stage: merge.linear, params: {{models: [{{model: {directory}, weight: 1.0}}]}}}}"
    assert trained(directory, "finetune.full", 'freeze: ["*.mpl.*"]', thinner=merge).targets
