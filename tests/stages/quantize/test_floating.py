"""Rounding to nf4 and fp8: hand-worked, against torch's type, and never past the nearest level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ingot.stages.model.levels import dynamic_levels, levels
from ingot.stages.model.quantized import QuantizedCheckpoint, WeightFormat
from ingot.stages.quantize import floating

if TYPE_CHECKING:
    from collections.abc import Sequence

NF4 = WeightFormat(4, 4, sym=True, numeric="nf4")
FP8 = WeightFormat(8, 0, sym=True, numeric="fp8_e4m3")


def test_a_hand_worked_group_of_nf4() -> None:
    weight = np.array([[2.0, -2.0, 0.1, 1.2]], np.float32)
    scales = floating.scales_of(floating.largest(weight, 4), NF4)
    assert scales.tolist() == [[2.0]]
    # 1, −1, 0.05 between 0 (code 7) and 0.0796 (code 8), 0.6 between 0.5626 (13) and 0.7230 (14).
    assert floating.encode(weight, scales, NF4).tolist() == [[15, 0, 8, 13]]


def test_a_short_last_group_and_an_empty_one() -> None:
    weight = np.array([[0.0, 0.0, 0.0, 0.0, 3.0, -1.5]], np.float32)
    scales = floating.scales_of(floating.largest(weight, 4), NF4)
    assert scales.tolist() == [[1.0, 3.0]]
    assert levels("nf4")[floating.encode(weight, scales, NF4)].tolist() == [
        [0, 0, 0, 0, 1, pytest.approx(-0.525073, abs=1e-5)]
    ]


@given(st.lists(st.floats(-500, 500, width=32), min_size=1, max_size=64))
def test_e4m3_is_torchs_where_it_does_not_overflow(values: Sequence[float]) -> None:
    array = np.array(values, np.float32)
    theirs = torch.from_numpy(np.clip(array, -448, 448)).to(torch.float8_e4m3fn)
    assert np.array_equal(floating.to_e4m3(array), theirs.view(torch.uint8).numpy())


def test_every_level_of_e4m3_and_every_middle_between_two_is_rounded_as_torch_rounds() -> None:
    table = levels("fp8_e4m3")[:127]
    middles = (table[1:] + table[:-1]) / 2
    around = [np.nextafter(middles, np.float32(side)) for side in (0, 1000)]
    values = np.concatenate([table, middles, *around]).astype(np.float32)
    values = np.concatenate([values, -values])
    theirs = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(floating.to_e4m3(values), theirs)


@given(st.integers(0, 2**32), st.sampled_from([NF4, FP8]))
def test_no_other_level_is_nearer(seed: int, form: WeightFormat) -> None:
    weight = np.random.default_rng(seed).standard_normal((3, 16)).astype(np.float32)
    scales = floating.scales_of(floating.largest(weight, form.group_size), form)
    codes = floating.encode(weight, scales, form)
    group = np.arange(16) // (form.group_size or 16)
    table = levels(form.numeric)
    given_error = np.abs(table[codes] * scales[:, group] - weight)
    all_errors = np.abs(table[None, None, :] * scales[:, group][:, :, None] - weight[:, :, None])
    assert np.all(given_error <= np.nanmin(all_errors, axis=2) * (1 + 1e-5) + 1e-7)


@given(st.integers(0, 2**32), st.integers(1, 700))
def test_double_quantized_scales_are_within_half_a_step_of_the_scales(seed: int, count: int) -> None:
    scales = np.random.default_rng(seed).uniform(0.5, 1.5, (1, count)).astype(np.float32)
    found = floating.double(scales)
    assert found.scales.shape == (-(-count // 256),)
    widest = np.diff(dynamic_levels()).max()
    steps = found.scales[np.arange(count) // 256]
    assert np.all(np.abs(found.values()[0] - scales[0]) <= widest / 2 * steps + 1e-6)


def weights(artifact: Any) -> QuantizedCheckpoint:
    return QuantizedCheckpoint.open(artifact.path)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_nf4_stays_within_what_its_levels_allow(
    family: str, double: bool, tiny_checkpoint: Any, run_stage: Any
) -> None:
    artifact = run_stage("quantize.nf4", {"model": tiny_checkpoint(family)}, double_quant=double)
    found = weights(artifact)
    from ingot.stages.model.checkpoint import Checkpoint

    plain = Checkpoint.open(tiny_checkpoint(family)).tensors
    assert found.quantized
    assert "lm_head.weight" not in found.quantized
    for name, spec in found.quantized.items():
        assert (spec.format.width, spec.format.group_size) == ("nf4", 64)
        original = plain.float32(name).T if spec.stored_in_out else plain.float32(name)
        weight = found.weight(name)
        group = np.arange(spec.shape[1]) // 64
        # Half of the widest gap between levels, of each group's scale; a quantized scale may be too small by
        # half of a step of its own.
        bound = 0.15191 * (1.05 if double else 1) * floating.largest(original, 64)[:, group]
        slack = 0.02 * floating.largest(original, 64).max() if double else 1e-6
        assert np.all(np.abs(weight.dequantize() - original) <= bound + slack)
        assert (weight.scale_codes is not None) == double
    share = artifact.facts["bits_per_weight"]
    if family == "llama":
        assert share < 4.5 if double else share >= 4.5


@pytest.mark.parametrize("scale", ["channel", "tensor"])
def test_fp8_scales_span_rows_or_the_whole_weight(scale: str, tiny_checkpoint: Any, run_stage: Any) -> None:
    from ingot.stages.model.checkpoint import Checkpoint

    artifact = run_stage("quantize.fp8", {"model": tiny_checkpoint("llama")}, scale=scale, activation="none")
    found, plain = weights(artifact), Checkpoint.open(tiny_checkpoint("llama")).tensors
    for name, spec in found.quantized.items():
        assert (spec.format.width, spec.groups, spec.format.activation) == ("fp8", 1, "none")
        original, weight = plain.float32(name), found.weight(name)
        peak = (
            np.abs(original).max(axis=1)
            if scale == "channel"
            else np.full(spec.shape[0], np.abs(original).max())
        )
        assert weight.scales[:, 0] == pytest.approx(peak / 448, rel=1e-6)
        # Three bits of mantissa: half of the last is a sixteenth of the number, above the smallest ones.
        assert np.all(
            np.abs(weight.dequantize() - original) <= np.abs(original) / 16 + weight.scales * 2**-10
        )


@pytest.mark.parametrize("method", ["nf4", "fp8"])
def test_onnx_refuses_them_before_anything_is_written(
    method: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    from ingot.artifacts.errors import InputError

    artifact = run_stage(f"quantize.{method}", {"model": tiny_checkpoint("llama")})
    with pytest.raises(InputError, match=f"no kernel for {method} weights"):
        run_stage("export.onnx", {"model": artifact})


def test_export_gives_nf4_and_fp8_back_as_they_were(tiny_checkpoint: Any, run_stage: Any) -> None:
    for method, layout, params in (
        ("nf4", "bitsandbytes", {"double_quant": True}),
        ("nf4", "bitsandbytes", {"double_quant": False}),
        ("fp8", "compressed-tensors", {}),
        ("fp8", "compressed-tensors", {"scale": "tensor", "lm_head_bits": 8}),
        ("fp8", "compressed-tensors", {"activation": "none"}),
    ):
        # Rows of 160 do not divide by 64, the paper's block: that layer stays as it is.
        ignore = ["*.down_proj.weight"] if method == "nf4" else []
        source = run_stage(f"quantize.{method}", {"model": tiny_checkpoint("llama")}, ignore=ignore, **params)
        written = run_stage("export.checkpoint", {"model": source}, layout=layout)
        found = weights(run_stage("load.quantized", {}, model=str(written.path)))
        expected = weights(source)
        assert set(found.quantized) == set(expected.quantized)
        for name in expected.quantized:
            ours, theirs = found.weight(name), expected.weight(name)
            assert np.array_equal(ours.codes, theirs.codes)
            assert np.array_equal(ours.scales, theirs.scales)
            assert np.array_equal(ours.dequantize(), theirs.dequantize())
