"""Which kernel a quantized weight goes to."""

from __future__ import annotations

from typing import Any

import pytest
from ingot.artifacts.errors import InputError
from ingot.stages.export.onnx.kernels import BlockKernel, Int8Kernel, Kernel, block_kernel, kernel_for
from ingot.stages.model.quantized import WeightFormat, WeightSpec


def chosen(
    bits: int, group_size: int, *, sym: bool = True, activation: str = "none", columns: int = 512
) -> Kernel:
    form = WeightFormat(bits, group_size, sym, activation)
    return kernel_for("w", WeightSpec(form, (64, columns)), accuracy_level=0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [16, 32, 64, 128, 256])
def test_groups_the_kernel_knows_are_its_blocks(bits: int, group: int) -> None:
    kernel = chosen(bits, group)
    assert isinstance(kernel, BlockKernel)
    assert (kernel.bits, kernel.block, kernel.has_zeros) == (bits, group, False)


def test_three_bits_travel_in_four_with_their_zero_points() -> None:
    assert chosen(3, 32) == BlockKernel(4, 32, 32, has_zeros=True, accuracy_level=0)


def test_two_bits_split_groups_that_their_kernel_lacks() -> None:
    assert chosen(2, 256) == BlockKernel(2, 256, 128, has_zeros=False, accuracy_level=0)


def test_two_bits_in_groups_below_their_kernel_travel_in_four() -> None:
    assert chosen(2, 16) == BlockKernel(4, 16, 16, has_zeros=True, accuracy_level=0)


@pytest.mark.parametrize(
    ("columns", "block"),
    [
        (512, 256),
        (1408, 128),  # 5.5 blocks of 256 would be 9 % padding
        (160, 32),
        (200, 16),
    ],
)
def test_one_scale_a_row_takes_the_largest_block_that_hardly_pads(columns: int, block: int) -> None:
    kernel = chosen(8, 0, columns=columns)
    assert isinstance(kernel, BlockKernel)
    assert (kernel.block, kernel.group_size) == (block, columns)


def test_a_group_of_an_odd_size_takes_the_largest_block_that_divides_it() -> None:
    kernel = chosen(4, 96)
    assert isinstance(kernel, BlockKernel)
    assert kernel.block == 32


def test_dynamic_int8_with_one_scale_a_row_takes_the_integer_kernel() -> None:
    assert chosen(8, 0, activation="dynamic") == Int8Kernel(has_zeros=False)
    assert chosen(8, 0, sym=False, activation="dynamic") == Int8Kernel(has_zeros=True)


def test_static_int8_takes_the_integer_kernel_unless_the_head_is_the_embedding() -> None:
    assert chosen(8, 0, activation="static") == Int8Kernel(has_zeros=False)
    spec = WeightSpec(WeightFormat(8, 0, True, "static"), (64, 512))
    with pytest.raises(InputError, match="a head that is the embedding"):
        block_kernel("w", spec, accuracy_level=0)


def test_other_dynamic_weights_take_blocks_with_int8_activations() -> None:
    kernel = chosen(4, 32, activation="dynamic")
    assert isinstance(kernel, BlockKernel)
    assert kernel.accuracy_level == 4


@pytest.mark.parametrize(
    ("bits", "group", "activation", "message"),
    [
        (5, 32, "none", "5-bit"),
        (4, 24, "none", "groups of 24"),
        (4, 32, "static", "'static' activations"),
    ],
)
def test_a_weight_that_nothing_computes_is_refused_by_name(
    bits: int, group: int, activation: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        chosen(bits, group, activation=activation)
    assert caught.value.what.startswith("w: ")
    assert caught.value.fix


@pytest.mark.parametrize(("numeric", "bits"), [("nf4", 4), ("fp8_e4m3", 8)])
@pytest.mark.parametrize("kernel", [kernel_for, block_kernel])
def test_formats_that_are_not_integers_are_refused(numeric: str, bits: int, kernel: Any) -> None:
    spec = WeightSpec(WeightFormat(bits, 64, sym=True, numeric=numeric), (64, 64))
    with pytest.raises(InputError, match=f"no kernel for {spec.format.width} weights"):
        kernel("w", spec, 4)
