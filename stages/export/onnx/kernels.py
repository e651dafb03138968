"""Which kernel of onnxruntime computes with a quantized weight, and in what layout it wants the codes.

Measured on onnxruntime 1.31 (AVX512-VNNI; a 62M Llama, 256 tokens, one thread; fp32 is 125 ms in the same
graph and 300 ms in PyTorch eager): int8 with one scale a row and a token 54 ms, MatMulNBits with int8 blocks
of activations 95 (8 bits), 107 (4 bits) and 98 ms (2 bits). Without int8 activations (accuracy level 0)
MatMulNBits decodes 8 and 2 bits by expanding the whole matrix for every token: 100 ms a token in place of 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....artifacts.errors import InputError

if TYPE_CHECKING:
    from ...model.quantized import WeightFormat, WeightSpec

INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy level that computes with int8 blocks of activations
BLOCKS = (256, 128, 64, 32, 16)
# With 2 bits the other sizes have no kernel of their own and cost a hundred times as much.
BLOCKS_2BIT = (128, 64, 32)


@dataclass(frozen=True)
class BlockKernel:
    """MatMulNBits: codes in blocks along the input, a scale a block.

    bits: width of the stored code.  group_size: input features that share a scale in the checkpoint.
    block: what the kernel takes; it divides the group, whose scale its blocks repeat.
    """

    bits: int
    group_size: int
    block: int
    has_zeros: bool
    accuracy_level: int

    def blocks(self, columns: int) -> int:
        """Blocks in a row of ``columns`` codes; the last may be short."""
        return -(-columns // self.block)


@dataclass(frozen=True)
class Int8Kernel:
    """MatMulIntegerToFloat: int8 weights with a scale an output, activations with one a token or for all."""

    has_zeros: bool


Kernel = BlockKernel | Int8Kernel


def kernel_for(name: str, spec: WeightSpec, accuracy_level: int) -> Kernel:
    """The kernel that multiplies by the weight ``name``.

    Int8 activations with one scale a row go to the integer kernel; everything else to MatMulNBits, which
    finds int8 scales for each block of activations by itself. Raises InputError when nothing computes it.
    """
    form = spec.format
    _require_integers(name, form)
    if form.activation in ("dynamic", "static") and form.bits == 8 and form.group_size == 0:
        return Int8Kernel(has_zeros=not form.sym)
    return block_kernel(name, spec, accuracy_level)


def block_kernel(name: str, spec: WeightSpec, accuracy_level: int) -> BlockKernel:
    """The block layout of the weight ``name``, for a product or for a look-up.

    accuracy_level: for weights that ask for no activation scheme; `dynamic` is int8 blocks of activations.
    3-bit codes have no kernel and travel in 4 bits, as do 2-bit codes in groups too small for the 2-bit one.
    """
    form, columns = spec.format, spec.shape[1]
    _require_integers(name, form)
    if form.activation not in ("none", "dynamic"):
        raise InputError(
            f"{name}: no kernel in blocks, as a head that is the embedding needs as well, takes "
            f"{form.activation!r} activations",
            fix="use dynamic ones for it, or 8 bits with one scale a row for a weight of its own",
        )
    if form.bits not in (2, 3, 4, 8):
        raise InputError(f"{name}: no kernel takes {form.bits}-bit weights", fix="use 2, 3, 4 or 8 bits")
    bits = 4 if form.bits == 3 else form.bits
    group = form.group_size or columns
    block = _block_of_row(columns, bits) if form.group_size == 0 else _block_of_group(form.group_size, bits)
    if block is None and bits == 2:
        bits, block = 4, _block_of_group(group, 4)
    if block is None:
        raise InputError(
            f"{name}: no kernel takes groups of {group}", fix="use a multiple of 16, such as 32 or 128"
        )
    level = INT8_ACTIVATIONS if form.activation == "dynamic" else accuracy_level
    return BlockKernel(bits, group, block, not form.sym or bits != form.bits, level)


def _require_integers(name: str, form: WeightFormat) -> None:
    if form.numeric != "int":
        raise InputError(
            f"{name}: onnxruntime has no kernel for {form.width} weights",
            fix="quantize to integers for it; export.checkpoint writes them for GPUs",
        )


def _sizes(bits: int) -> tuple[int, ...]:
    return BLOCKS_2BIT if bits == 2 else BLOCKS


def _block_of_row(columns: int, bits: int) -> int:
    """For one scale a row, the largest block that fills the row with at most a sixteenth of padding."""
    sizes = _sizes(bits)
    fitting = (size for size in sizes if -columns % size <= columns // 16)
    return next(fitting, sizes[-1])


def _block_of_group(group: int, bits: int) -> int | None:
    """The largest block that divides the group."""
    return next((size for size in _sizes(bits) if group % size == 0), None)
