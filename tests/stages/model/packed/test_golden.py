"""What real libraries packed is read exactly, and written again tensor by tensor as they wrote it.

The files are made by `make_golden.py`, in environments that have the libraries.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.tensors import TensorSource
from ingot.stages.model.levels import levels
from ingot.stages.model.packed import (
    AwqLayout,
    BitsandbytesLayout,
    CompressedLayout,
    GptqLayout,
    Layout,
    Reader,
    open_reader,
)
from ingot.stages.quantize import floating

if TYPE_CHECKING:
    from ingot.stages.model.quantized import QuantizedWeight

GOLDEN = Path(__file__).with_name("golden")
CASES = sorted(path.stem for path in GOLDEN.glob("*.json"))


def opened(case: str) -> tuple[Reader, TensorSource]:
    config = json.loads((GOLDEN / f"{case}.json").read_text())
    reader = open_reader({"quantization_config": config}, case)
    return reader, TensorSource.open([GOLDEN / f"{case}.safetensors"])


def read(case: str) -> tuple[QuantizedWeight, TensorSource]:
    reader, tensors = opened(case)
    rows, columns = tensors.info("expected.weight").shape
    parts = {suffix: tensors.info(f"M.{suffix}") for suffix in reader.suffixes if f"M.{suffix}" in tensors}
    return reader.read("M", reader.spec("M", (rows, columns), parts), tensors), tensors


def layout_of(case: str, weight: QuantizedWeight) -> Layout:
    if case.startswith("gptq"):
        return GptqLayout(checkpoint_format="gptq" if "-v1-" in case else "gptq_v2")
    if case.startswith("nf4"):
        return BitsandbytesLayout()
    return AwqLayout() if case.startswith("awq") else CompressedLayout()


def test_there_are_files_of_every_library() -> None:
    assert len(CASES) == 18
    assert {opened(case)[0].method for case in CASES} == {"gptq", "awq", "compressed-tensors", "bitsandbytes"}


@pytest.mark.parametrize("case", CASES)
def test_the_weight_is_the_one_that_the_library_packed(case: str) -> None:
    weight, tensors = read(case)
    assert np.array_equal(weight.dequantize(), tensors.array("expected.weight"))


@pytest.mark.parametrize("case", [case for case in CASES if case != "nf4-double"])
def test_written_again_every_tensor_is_the_librarys(case: str) -> None:
    weight, tensors = read(case)
    if case == "fp8-tensor":
        # Written per row: every row has the scale that the tensor had.
        assert len(set(weight.scales.reshape(-1).tolist())) == 1
    stored = {name: tensors.raw(name).tobytes() for name in tensors.names() if name.startswith("M.")}
    for part in layout_of(case, weight).parts("M.weight", weight.spec):
        made = np.ascontiguousarray(part.make(weight))
        theirs = stored.pop(part.shape.name)
        if part.shape.name.endswith("nf4"):
            # JSON: the same values, whatever the white space.
            assert json.loads(made.tobytes()) == json.loads(theirs)
        elif case == "fp8-tensor" and part.shape.name == "M.weight_scale":
            assert made.reshape(-1)[:1].tobytes() == theirs
        else:
            assert made.tobytes() == theirs, part.shape.name
            assert part.shape.shape == tensors.info(part.shape.name).shape
            assert part.shape.dtype == tensors.info(part.shape.name).dtype
    # Some releases keep the zero points of symmetric weights, which say nothing.
    assert set(stored) <= ({"M.weight_zero_point"} if weight.spec.format.sym else set())


def test_what_is_said_of_activations_is_read() -> None:
    assert read("int8-dynamic")[0].spec.format.activation == "dynamic"
    assert read("fp8-dynamic")[0].spec.format.activation == "dynamic"
    static = read("int8-static")[0].spec
    assert static.format.activation == "static"
    assert static.input is not None
    assert np.float32(static.input.scale) == np.float32(0.0375)
    assert static.input.zero == 128 - 7


@pytest.mark.parametrize("case", ["nf4", "nf4-double"])
def test_nf4_codes_are_those_of_bitsandbytes(case: str) -> None:
    """Rounding, not packing: the same original weight gives the same codes and the same first scales."""
    theirs, tensors = read(case)
    original: Any = tensors.array("expected.original")
    form = theirs.spec.format
    scales = floating.scales_of(floating.largest(original, form.group_size), form)
    codes = floating.encode(original, scales, form)
    if case == "nf4":
        assert np.array_equal(scales, theirs.scales)
    else:
        assert floating.double(scales).values() == pytest.approx(theirs.scales, abs=1e-5)
    assert np.array_equal(codes, theirs.codes)


def test_codes_chosen_for_quantized_scales_lose_no_more() -> None:
    theirs, tensors = read("nf4-double")
    original: Any = tensors.array("expected.original")
    form = theirs.spec.format
    scales = floating.double(floating.scales_of(floating.largest(original, form.group_size), form)).values()
    codes = floating.encode(original, scales, form)
    ours = levels("nf4")[codes] * np.repeat(scales, form.group_size, axis=1)
    assert np.linalg.norm(ours - original) <= np.linalg.norm(theirs.dequantize() - original) * (1 + 1e-6)
