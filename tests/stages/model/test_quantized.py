"""The one quantized form: what codes stand for, records that are read, and those that are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.errors import CorruptError
from ingot.artifacts.tensors import TensorShape
from ingot.stages.model.quantized import (
    ActivationGrid,
    QuantizedCheckpoint,
    QuantizedWeight,
    WeightFormat,
    WeightSpec,
    record_json,
)

if TYPE_CHECKING:
    from pathlib import Path

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


def weight(form: WeightFormat, codes: list[list[int]], scales: list[list[float]]) -> QuantizedWeight:
    rows = np.array(codes, np.uint8)
    spec = WeightSpec(form, (len(rows), rows.shape[1]))
    zeros = np.full((len(rows), spec.groups), 2 ** (form.bits - 1) if form.numeric == "int" else 0, np.uint8)
    return QuantizedWeight("w", spec, rows, np.array(scales, np.float32), zeros)


def test_integers_stand_for_their_distance_from_zero_in_steps() -> None:
    found = weight(WeightFormat(4, 2, sym=True), [[8, 9, 0, 15]], [[0.5, 2.0]])
    assert found.dequantize().tolist() == [[0.0, 0.5, -16.0, 14.0]]


def test_nf4_and_fp8_stand_for_levels_times_a_scale() -> None:
    normal = weight(WeightFormat(4, 2, sym=True, numeric="nf4"), [[0, 7, 15, 15]], [[0.5, 3.0]])
    assert normal.dequantize().tolist() == [[-0.5, 0.0, 3.0, 3.0]]
    # 0x7E is the largest, 448; 0xB8 is −1; 0x01 is 2^−9.
    eight = weight(WeightFormat(8, 0, sym=True, numeric="fp8_e4m3"), [[0x7E, 0xB8, 1, 0]], [[2.0]])
    assert eight.dequantize().tolist() == [[896.0, -2.0, 2**-8, 0.0]]


def test_some_rows_are_the_rows_of_the_whole() -> None:
    found = weight(WeightFormat(4, 0, sym=True), [[1, 2], [3, 4], [5, 6]], [[1.0], [2.0], [4.0]])
    assert np.array_equal(found.dequantize(slice(1, 3)), found.dequantize()[1:3])


def test_a_record_from_before_there_were_other_formats_is_of_integers() -> None:
    entry = {
        "bits": 4, "group_size": 32, "sym": True, "activation": "none", "shape": [2, 64],
        "stored_in_out": False,
    }  # fmt: skip
    form = WeightSpec.from_json(entry).format
    assert (form.numeric, form.double_quantized, form.width) == ("int", False, "int4")


@pytest.mark.parametrize(
    "form",
    [
        WeightFormat(3, 32, sym=False),
        WeightFormat(8, 0, sym=True, activation="dynamic", numeric="fp8_e4m3"),
        WeightFormat(4, 64, sym=True, numeric="nf4", double_quantized=True),
    ],
)
def test_a_spec_comes_back_from_its_record(form: WeightFormat) -> None:
    spec = WeightSpec(form, (3, 128), stored_in_out=True)
    assert WeightSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_double_quantized_scales_lie_beside_what_they_stand_for_and_cost_a_byte() -> None:
    spec = WeightSpec(WeightFormat(4, 64, sym=True, numeric="nf4", double_quantized=True), (10, 3200))
    assert spec.layout("w") == (
        TensorShape("w.codes", "U8", (10, 3200)),
        TensorShape("w.scales", "F32", (10, 50)),
        TensorShape("w.scale_codes", "U8", (10, 50)),
        TensorShape("w.scale_scales", "F32", (2,)),
        TensorShape("w.scale_offset", "F32", (1,)),
    )
    # 500 scales: a byte each, a float32 for each of two blocks of 256, one for their offset.
    assert spec.payload_bits == 32_000 * 4 + 500 * 8 + 3 * 32


def test_codes_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    spec = WeightSpec(WeightFormat(4, 32, sym=True), (2, 64))
    record = record_json("rtn", {"w": spec})
    record["weights"]["w"]["numeric"] = "posit"  # type: ignore[index]
    (tmp_path / "quantization.json").write_text(json.dumps(record))
    with pytest.raises(CorruptError, match="posit"):
        QuantizedCheckpoint.open(tmp_path)
