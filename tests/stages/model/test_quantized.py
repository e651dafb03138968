"""The record of the quantized form: what is written is read back, and what contradicts itself is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.errors import CorruptError
from ingot.stages.model.quantized import (
    ActivationGrid,
    QuantizedCheckpoint,
    WeightFormat,
    WeightSpec,
    record_json,
)

STATIC = WeightFormat(8, 0, sym=True, activation="static")


@given(
    st.floats(2.0**-100, 2.0**100, width=32, allow_nan=False),
    st.integers(0, 255),
)
def test_the_grid_of_an_input_comes_back_to_the_last_bit(scale: float, zero: int) -> None:
    spec = WeightSpec(STATIC, (3, 5), True, ActivationGrid(scale, zero))
    again = WeightSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.input is not None
    assert np.float32(again.input.scale) == np.float32(scale)


@pytest.mark.parametrize("activation", ["none", "dynamic"])
def test_a_record_from_before_there_were_static_activations_is_read(activation: str) -> None:
    entry = {"bits": 8, "group_size": 0, "sym": True, "activation": activation}
    spec = WeightSpec.from_json({**entry, "shape": [2, 4], "stored_in_out": False})
    assert spec == WeightSpec(WeightFormat(8, 0, sym=True, activation=activation), (2, 4))


@pytest.mark.parametrize(("zero", "symmetric"), [(128, True), (127, False), (0, False)])
def test_a_grid_is_symmetric_about_the_middle_code(zero: int, symmetric: bool) -> None:
    assert ActivationGrid(0.5, zero).is_symmetric is symmetric


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "none"}, "none activations with the grid"),
        ({"input": None}, "static activations with the grid None"),
        ({"input": {"scale": 0.0, "zero": 0}}, "scale of 0.0"),
        ({"input": {"scale": float("inf"), "zero": 0}}, "scale of inf"),
        ({"input": {"scale": 0.1, "zero": 256}}, "zero point of 256"),
        ({"input": {"scale": 0.1}}, "zero"),
    ],
)
def test_a_record_that_contradicts_itself_is_corrupt(
    change: dict[str, object], message: str, tmp_path
) -> None:
    record = record_json("static", {"w": WeightSpec(STATIC, (2, 4), False, ActivationGrid(0.1, 3))})
    record["weights"]["w"].update(change)
    (tmp_path / "quantization.json").write_text(json.dumps(record))
    with pytest.raises(CorruptError, match=message):
        QuantizedCheckpoint.open(tmp_path)
