"""What is told of a merge's models, on differences that are worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ingot.artifacts.tensors import TensorShape, TensorSource
from ingot.stages.merge import similarity as module
from ingot.stages.merge.operands import StoredOperand
from ingot.stages.merge.similarity import similarity
from ingot.stages.merge.task import Input, TensorTask
from ingot.stages.model.layout import layout_of

from .conftest import write

if TYPE_CHECKING:
    from pathlib import Path

UP, GATE = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.experts.3.gate_proj.weight"


def told(folder: Path, base: Any, inputs: list[Any], made: Any, name: str = UP) -> dict[str, Any]:
    tensors = {
        f"{number}": torch.as_tensor(each, dtype=torch.float32) for number, each in enumerate([base, *inputs])
    }
    source = TensorSource.open([write(folder / "in.safetensors", tensors)])
    first, *rest = (StoredOperand(source, f"model{number}", str(number)) for number in range(len(tensors)))
    shape = tuple(tensors["0"].shape)
    task = TensorTask(TensorShape(name, "F32", shape), "ties", first, tuple(map(Input, rest)))
    out = write(folder / "out.safetensors", {name: torch.as_tensor(made, dtype=torch.float32)})
    found = similarity([task], layout_of([UP, GATE], None), TensorSource.open([out]), {"model1": "a"})
    (group,) = found["groups"]  # type: ignore[misc]
    return dict(group)


def test_cosines_agreement_distance_and_what_was_kept(tmp_path: Path) -> None:
    base = [3.0, 0.0, 4.0, 0.0]
    # Differences (1, 2, 0, -2) and (1, -2, 2, 0): their product is -3, their lengths are 3.
    group = told(tmp_path, base, [[4, 2, 4, -2], [4, -2, 6, 0]], [3.5, 1, 4, 0])
    assert group["cosine"] == [[1, pytest.approx(-1 / 3, abs=1e-6)], [pytest.approx(-1 / 3, abs=1e-6), 1]]
    # Both differ in the first two elements, and agree in the first.
    assert group["sign_agreement"] == [[1, 0.5], [0.5, 1]]
    assert group["distance"] == [0.6, 0.6]
    # The output moves by (0.5, 1, 0, 0): with two of the first model's three, with one of the second's.
    assert group["kept"] == [pytest.approx(2 / 3, abs=1e-6), pytest.approx(1 / 3, abs=1e-6)]
    assert group["moved"] == 0.5
    assert (group["layer"], group["role"], group["elements"], group["sampled"]) == (0, "mlp.up_proj", 4, 4)
    assert group["sources"] == ["a", "model2"]


def test_a_model_that_is_the_base_has_no_direction(tmp_path: Path) -> None:
    group = told(tmp_path, [1.0, 2.0], [[1.0, 2.0], [2.0, 2.0]], [1.0, 2.0])
    assert group["cosine"] == [[None, None], [None, 1]]
    assert group["kept"] == [None, 0]


def test_experts_of_a_layer_are_one_role(tmp_path: Path) -> None:
    assert told(tmp_path, [1.0], [[2.0]], [2.0], GATE)["role"] == "mlp.experts.gate_proj"


def test_a_sample_tells_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    base, shared = generator.normal(size=(2, 400_000)).astype(np.float32)
    own = generator.normal(size=(2, 400_000)).astype(np.float32)
    # Differences s + u and s + v of independent normals have a cosine of 1/2 and agree in sign in 2/3.
    inputs = [base + shared + each for each in own]
    group = told(tmp_path, base, inputs, base + shared)
    assert (group["elements"], group["sampled"]) == (400_000, module.SAMPLE_ELEMENTS)
    assert group["cosine"][0][1] == pytest.approx(1 / 2, abs=0.02)
    assert group["sign_agreement"][0][1] == pytest.approx(2 / 3, abs=0.02)
    # The sign of s is that of s + u in 3/4.
    assert group["kept"] == [pytest.approx(3 / 4, abs=0.02)] * 2
    monkeypatch.setattr(module, "SAMPLE_ELEMENTS", 400_000)
    whole = told(tmp_path, base, inputs, base + shared)
    assert whole["sampled"] == 400_000
    assert whole["cosine"][0][1] == pytest.approx(group["cosine"][0][1], abs=0.02)
