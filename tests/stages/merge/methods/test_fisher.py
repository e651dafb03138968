"""`fisher`: weights by hand, and what it makes of real checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ingot.artifacts.errors import InputError, RecipeError
from ingot.stages.base import Context
from ingot.stages.merge.methods import fisher
from ingot.stages.merge.statistics import Statistic
from ingot.stages.model.calibration.calibrate import CalibratedParams
from ingot.stages.model.checkpoint import Checkpoint
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path


def test_elements_are_weighted_by_their_information(stored: Any, carry: Any) -> None:
    first, second = stored([1.0, 2.0, 4.0]), stored([3.0, 6.0, 8.0])
    first.statistic = Statistic(stored([1.0, 0.0, 0.0]))
    second.statistic = Statistic(stored([3.0, 2.0, 0.0]))
    # (1 + 9) / 4; the second alone; nobody feels the third, so it is averaged.
    assert carry("fisher", [first, second]).tolist() == [2.5, 6.0, 6.0]
    each = [{"weight": 3.0}, {"weight": 1.0}]
    assert carry("fisher", [first, second], each=each).tolist() == [2.0, 6.0, 5.0]


def test_without_any_information_it_is_the_average(merge: Any) -> None:
    assert merge("fisher", [[1.0, 2.0], [3.0, 6.0]]).tolist() == [2.0, 4.0]


def test_information_of_some_models_alone_is_refused(stored: Any, carry: Any) -> None:
    first, second = stored([1.0]), stored([3.0])
    first.statistic = Statistic(stored([1.0]))
    with pytest.raises(InputError, match="moved between vocabularies"):
        carry("fisher", [first, second])


@pytest.mark.parametrize(
    ("stage", "values"),
    [
        ("merge", {"config": "recipe.yml"}),
        ("merge.search", {"algorithm": "fisher", "models": [{"model": "a"}, {"model": "b"}]}),
    ],
)
def test_a_step_that_has_no_place_for_a_text_refuses_it(
    stage: str, values: dict[str, Any], merged: Any, sibling: Any, tmp_path: Path
) -> None:
    models = [{"model": str(sibling("llama", name))} for name in "ab"]
    recipe = {"merge_method": "fisher", "models": models, "dtype": "float32"}
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    if "models" in values:
        values = {**values, "models": models}
    with pytest.raises(RecipeError, match="fisher takes a calibration text") as error:
        merged(stage, values)
    assert "method: fisher" in str(error.value.fix)


def test_what_was_found_is_kept_for_the_next_run(
    run_stage: Any, sibling: Any, text: Path, tmp_path: Path
) -> None:
    loaded = run_stage("load", {}, model=str(sibling("llama", "a")))
    context = Context(
        params=CalibratedParams(calibration=str(text), samples=2, window=16), inputs={"model": loaded},
        output=None, job=tmp_path, seed=0, threads=1, progress=lambda *_: None, note=print,
    )  # fmt: skip
    source = Checkpoint.open(loaded.path)
    first = fisher.measure(context, source)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    again = fisher.measure(context, source)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert first.keys() == again.keys() == set(source.tensors.names())
    other = fisher.measure(replace(context, seed=1), source)
    name = source.architecture.linears[0].name
    assert not np.array_equal(other[name].operand.raw(), first[name].operand.raw())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_element_lies_between_the_models_and_one_model_twice_is_itself(
    family: str, merged: Any, sibling: Any, text: Path
) -> None:
    a, b = sibling(family, "a"), sibling(family, "b")
    settings = {"calibration": str(text), "samples": 4, "window": 16}
    found = merged("merge.fisher", {"models": [{"model": str(a)}, {"model": str(b)}], **settings})
    left, right, made = (load_file(each / "model.safetensors") for each in (a, b, found.path))
    differs = 0
    for name, value in made.items():
        low, high = torch.minimum(left[name], right[name]), torch.maximum(left[name], right[name])
        slack = 1e-6 * (high - low).abs() + 1e-6
        assert torch.all((value >= low - slack) & (value <= high + slack)), name
        differs += int(((value - (low + high) / 2).abs() > 0.1 * (high - low) + 1e-6).sum())
    assert differs > 1000  # it is no plain average
    twice = merged("merge.fisher", {"models": [{"model": str(a)}, {"model": str(a)}], **settings})
    for name, value in load_file(twice.path / "model.safetensors").items():
        torch.testing.assert_close(value, left[name], rtol=1e-6, atol=1e-7)
