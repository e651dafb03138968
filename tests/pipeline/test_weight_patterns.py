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
