"""Every layout, written and read back: the same codes, scales and zero points, whatever the shape."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.artifacts.tensors import SafetensorsWriter, TensorSource
from ingot.stages.model.levels import dynamic_levels
from ingot.stages.model.packed import (
    AwqLayout,
    BitsandbytesLayout,
    CompressedLayout,
    GptqLayout,
    Layout,
    open_reader,
)
from ingot.stages.model.quantized import ActivationGrid, QuantizedWeight, WeightFormat, WeightSpec

if TYPE_CHECKING:
    from collections.abc import Callable

NAME, MODULE = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj"


def made(form: WeightFormat, shape: tuple[int, int], seed: int, least_zero: int = 0) -> QuantizedWeight:
    """A random weight of that format, its scales such as float16 holds."""
    rng = np.random.default_rng(seed)
    spec = WeightSpec(form, shape)
    if form.activation == "static":
        spec = replace(spec, input=ActivationGrid(0.0375, 128 if form.sym else int(rng.integers(0, 256))))
    codes = rng.integers(0, 2**form.bits, shape).astype(np.uint8)
    if form.numeric == "fp8_e4m3":
        codes[codes & 0x7F == 0x7F] = 0
    count = (shape[0], spec.groups)
    scales = rng.uniform(0.001, 2.0, count).astype(np.float16).astype(np.float32)
    zeros = np.zeros(count, np.uint8)
    if form.numeric == "int":
        middle = 2 ** (form.bits - 1)
        zeros[:] = middle if form.sym else rng.integers(least_zero, 2**form.bits, count)
        if not form.sym:
            zeros[0, 0] = middle - 1
    found = QuantizedWeight("w", spec, codes, scales, zeros)
    if not form.double_quantized:
        return found
    scale_codes = rng.integers(0, 256, count).astype(np.uint8)
    scale_scales = rng.uniform(0.5, 1.0, spec.scale_blocks).astype(np.float32)
    offset = np.array([3.1], np.float32)
    block = np.arange(scale_codes.size).reshape(count) // 256
    scales = dynamic_levels()[scale_codes] * scale_scales[block] + offset
    return replace(
        found, scales=scales, scale_codes=scale_codes, scale_scales=scale_scales, scale_offset=offset
    )


def through_a_file(layout: Layout, weight: QuantizedWeight) -> QuantizedWeight:
    """The weight, written in a layout and read by what config.json says."""
    parts = layout.parts(NAME, weight.spec)
    stream = io.BytesIO()
    with SafetensorsWriter(stream, [part.shape for part in parts]) as writer:
        for part in parts:
            writer.write(part.shape.name, part.make(weight))
    config = {"quantization_config": layout.config({NAME: weight.spec}, [])}
    reader = open_reader(config, "config.json")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        path.write_bytes(stream.getvalue())
        tensors = TensorSource.open([path])
        assert any(f"{MODULE}.{marker}" in tensors for marker in reader.markers)
        stored = {
            suffix: tensors.info(f"{MODULE}.{suffix}")
            for suffix in reader.suffixes
            if f"{MODULE}.{suffix}" in tensors
        }
        assert len(stored) == len(parts)
        return reader.read(MODULE, reader.spec(MODULE, weight.spec.shape, stored), tensors)


def assert_same(found: QuantizedWeight, expected: QuantizedWeight) -> None:
    assert found.spec == expected.spec
    assert found.name == NAME
    for part in ("codes", "scales", "zeros"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs), part


sizes = st.sampled_from([32, 64, 96, 160])
seeds = st.integers(0, 2**32)


@given(st.sampled_from([2, 3, 4, 8]), st.sampled_from([0, 16, 32]), st.booleans(), sizes, sizes, seeds)
def test_gptq(bits: int, group: int, sym: bool, rows: int, columns: int, seed: int) -> None:
    weight = made(WeightFormat(bits, group, sym), (rows, columns), seed)
    layout = GptqLayout().of({NAME: weight.spec})
    assert layout.checkpoint_format == ("gptq" if sym else "gptq_v2")
    assert_same(through_a_file(layout, weight), weight)


@given(st.sampled_from([2, 3, 4, 8]), sizes, seeds)
def test_version_one_of_gptq_with_zero_points_that_it_can_say(bits: int, rows: int, seed: int) -> None:
    weight = made(WeightFormat(bits, 32, sym=False), (rows, 64), seed, least_zero=1)
    assert_same(through_a_file(GptqLayout(checkpoint_format="gptq"), weight), weight)


@given(st.sampled_from([0, 16, 32]), st.booleans(), st.sampled_from([8, 24, 64]), sizes, seeds)
def test_awq(group: int, sym: bool, rows: int, columns: int, seed: int) -> None:
    weight = made(WeightFormat(4, group, sym), (rows, columns), seed)
    assert_same(through_a_file(AwqLayout(), weight), weight)


@given(
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from([0, 16, 48]),
    st.booleans(),
    st.integers(1, 5),
    st.sampled_from([48, 96, 144]),
    seeds,
)
def test_compressed_tensors_packed(
    bits: int, group: int, sym: bool, rows: int, columns: int, seed: int
) -> None:
    weight = made(WeightFormat(bits, group, sym), (rows, columns), seed)
    assert_same(through_a_file(CompressedLayout(), weight), weight)


@given(st.sampled_from(["dynamic", "static"]), st.booleans(), st.integers(1, 9), st.integers(1, 40), seeds)
def test_compressed_tensors_int8(activation: str, sym: bool, rows: int, columns: int, seed: int) -> None:
    weight = made(WeightFormat(8, 0, sym, activation=activation), (rows, columns), seed)
    found = through_a_file(CompressedLayout(), weight)
    if activation == "static":
        assert found.spec.input is not None
        assert weight.spec.input is not None
        # The scale of an input is a float32 in the file.
        expected = replace(weight.spec.input, scale=float(np.float32(weight.spec.input.scale)))
        weight = replace(weight, spec=replace(weight.spec, input=expected))
    assert_same(found, weight)


@given(st.sampled_from(["none", "dynamic"]), st.sampled_from([0, 16]), st.integers(1, 9), seeds)
def test_compressed_tensors_fp8(activation: str, group: int, rows: int, seed: int) -> None:
    form = WeightFormat(8, 0 if activation == "dynamic" else group, True, activation, "fp8_e4m3")
    weight = made(form, (rows, 48), seed)
    assert_same(through_a_file(CompressedLayout(), weight), weight)


@given(st.booleans(), st.sampled_from([64, 128]), st.integers(1, 9), st.sampled_from([128, 640]), seeds)
def test_bitsandbytes(double: bool, group: int, rows: int, columns: int, seed: int) -> None:
    form = WeightFormat(4, group, sym=True, numeric="nf4", double_quantized=double)
    weight = made(form, (rows, columns), seed)
    plain = replace(weight, spec=WeightSpec(replace(form, double_quantized=False), weight.spec.shape))
    assert_same(through_a_file(BitsandbytesLayout(), weight), plain)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("layout", "form"),
    [
        (GptqLayout, WeightFormat(4, 32, sym=False)),
        (AwqLayout, WeightFormat(4, 32, sym=False)),
        (CompressedLayout, WeightFormat(4, 32, sym=False)),
    ],
)
def test_scales_are_what_their_dtype_makes_of_them(
    layout: Callable[..., Any], form: WeightFormat, dtype: str
) -> None:
    import torch

    weight = made(form, (32, 64), 0)
    weight = replace(weight, scales=np.random.default_rng(1).uniform(1e-3, 2, (32, 2)).astype(np.float32))
    options = {"checkpoint_format": "gptq_v2"} if layout is GptqLayout else {}
    found = through_a_file(layout(scale_dtype=dtype, **options), weight)
    expected = torch.from_numpy(weight.scales).to(getattr(torch, dtype)).float().numpy()
    assert np.array_equal(found.scales, expected)
    assert np.array_equal(found.codes, weight.codes)
