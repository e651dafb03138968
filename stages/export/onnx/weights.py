"""The checkpoint's tensors as initializers of a graph, float or quantized, and an account of their use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ....artifacts.errors import CorruptError, IntakeError, StageError
from ..account import account
from .graph import Initializer
from .narrow import narrowed
from .packing import group_of_block, pack_bits, to_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from ...model.checkpoint import Checkpoint
    from ...model.families import Architecture
    from ...model.quantized import QuantizedCheckpoint, QuantizedWeight, WeightSpec
    from .kernels import BlockKernel

# Large enough that a block costs more to convert than to start, small beside any model.
BLOCK_ELEMENTS = 1 << 21
# A transposed block takes whole lines from every row, so that each is fetched once.
CACHE_LINE_BYTES = 64


@dataclass(frozen=True)
class PackedWeight:
    """The initializers of a weight in blocks; zero points are absent where the kernel's default is right.

    codes: uint8 [out, blocks, block·bits/8].  scales: float32 [out, blocks].  zeros: uint8 [out,
    ceil(blocks·bits/8)], as products read them.  lookup_zeros: uint8 [out, blocks, 1], as look-ups do.
    """

    codes: Initializer
    scales: Initializer
    zeros: Initializer | None
    lookup_zeros: Initializer | None


class Weights:
    """Gives initializers by tensor name; raises IntakeError for a tensor that is missing or misshapen.

    dtype: of floating-point tensors and of scales in the graph.
    """

    def __init__(
        self, checkpoint: Checkpoint, quantized: QuantizedCheckpoint | None, dtype: str = "float32"
    ) -> None:
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._quantized = quantized
        self._specs: Mapping[str, WeightSpec] = quantized.quantized if quantized else {}
        self._used: dict[str, tuple[str, int]] = {}

    def spec(self, name: str) -> WeightSpec | None:
        """How the weight is quantized, or None when it is in floating point."""
        return self._specs.get(name)

    def floats(self, name: str, shape: tuple[int, ...], dtype: str | None = None) -> Initializer:
        """A floating-point tensor, in the graph's dtype when None, converted by block while it is written."""
        dtype = dtype or self._dtype
        tensors = self._checkpoint.tensors
        if name not in tensors:
            raise IntakeError(f"the tensor {name} is missing", where=str(self._checkpoint.directory))
        self._check_shape(name, tensors.info(name).shape, shape)
        if tensors.info(name).dtype not in ("F32", "F16", "BF16", "F64"):
            raise IntakeError(
                f"the tensor {name} is {tensors.info(name).dtype}, not a floating-point weight",
                where=str(self._checkpoint.directory),
            )
        self._used[name] = (dtype, math.prod(shape))
        rows = max(1, BLOCK_ELEMENTS // max(1, math.prod(shape[1:])))

        def blocks() -> Iterator[npt.NDArray[Any]]:
            for start in range(0, shape[0], rows):
                yield narrowed(tensors.float32(name, slice(start, start + rows)), dtype, name)
            tensors.release(name)

        return Initializer(name, dtype, shape, blocks)

    def packed(self, name: str, shape: tuple[int, int], kernel: BlockKernel) -> PackedWeight:
        """A quantized weight [out, in] in blocks: the checkpoint's codes, rearranged only."""
        weight = self._weight(name, shape)
        rows, columns = shape
        count = kernel.blocks(columns)
        group = group_of_block(columns, kernel.group_size, kernel.block)
        step = max(1, BLOCK_ELEMENTS // columns)

        def codes() -> Iterator[npt.NDArray[Any]]:
            for start in range(0, rows, step):
                part = weight.codes[start : start + step]
                _check_codes(weight, part)
                blocks = to_blocks(part, weight.zeros[start : start + step, group], kernel.block)
                yield pack_bits(blocks, kernel.bits)
            self._release(name)

        def zeros() -> Iterator[npt.NDArray[Any]]:
            yield pack_bits(weight.zeros[:, group], kernel.bits)

        def lookup_zeros() -> Iterator[npt.NDArray[Any]]:
            yield np.ascontiguousarray(weight.zeros[:, group, None])

        def scales() -> Iterator[npt.NDArray[Any]]:
            yield np.ascontiguousarray(weight.scales[:, group])

        per_byte = 8 // kernel.bits
        packed_zeros = Initializer(f"{name}.zeros", "uint8", (rows, -(-count // per_byte)), zeros)
        plain_zeros = Initializer(f"{name}.lookup_zeros", "uint8", (rows, count, 1), lookup_zeros)
        return PackedWeight(
            Initializer(f"{name}.codes", "uint8", (rows, count, kernel.block // per_byte), codes),
            Initializer(f"{name}.scales", "float32", (rows, count), scales),
            packed_zeros if kernel.has_zeros else None,
            plain_zeros if kernel.has_zeros else None,
        )

    def int8_columns(self, name: str, shape: tuple[int, int]) -> tuple[Initializer, Initializer, Initializer]:
        """A weight with one scale a row, as signed codes [in, out], scales [out] and zero points [out]."""
        weight = self._weight(name, shape)
        rows, columns = shape
        step = max(CACHE_LINE_BYTES, BLOCK_ELEMENTS // rows)

        def codes() -> Iterator[npt.NDArray[Any]]:
            for start in range(0, columns, step):
                yield _signed(weight.codes[:, start : start + step].T)
            self._release(name)

        return (
            Initializer(f"{name}.codes", "int8", (columns, rows), codes),
            Initializer(f"{name}.scales", "float32", (rows,), lambda: iter((weight.scales.reshape(-1),))),
            Initializer(f"{name}.zeros", "int8", (rows,), lambda: iter((_signed(weight.zeros.reshape(-1)),))),
        )

    def signed(
        self, name: str, shape: tuple[int, int], *, transposed: bool
    ) -> tuple[Initializer, Initializer, Initializer]:
        """A weight's codes about 0, its scales and its zero points, as DequantizeLinear reads them.

        Codes and zero points are int8, int4 below 8 bits, and E4M3 where that is what codes name.  Codes
        [out, in] and scales [out, groups], or transposed both; one scale a row is [out].
        """
        weight = self._weight(name, shape)
        form = weight.spec.format
        dtype, middle = ("int8" if form.bits == 8 else "int4"), 2 ** (form.bits - 1)
        dtype = "float8e4m3fn" if form.numeric == "fp8_e4m3" else dtype
        codes, sides = (weight.codes.T, shape[::-1]) if transposed else (weight.codes, shape)
        # An even number of whole cache lines, so that two codes of a byte are in one block.
        step = max(CACHE_LINE_BYTES, BLOCK_ELEMENTS // sides[1] // CACHE_LINE_BYTES * CACHE_LINE_BYTES)

        def about_zero(values: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
            if dtype == "float8e4m3fn":
                return np.ascontiguousarray(values)
            centred = values.astype(np.int8) if form.bits < 8 else _signed(values)
            if form.bits == 8:
                return centred
            return pack_bits((centred - np.int8(middle)).reshape(-1).view(np.uint8) & np.uint8(15), 4)

        def blocks() -> Iterator[npt.NDArray[Any]]:
            for start in range(0, sides[0], step):
                part = codes[start : start + step]
                _check_codes(weight, part)
                yield about_zero(part)
            self._release(name)

        def grouped(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if form.group_size == 0:
                return values.reshape(-1)
            return np.ascontiguousarray(values.T if transposed else values)

        def scales() -> Iterator[npt.NDArray[Any]]:
            yield narrowed(grouped(weight.scales), self._dtype, f"{name}.scales")

        groups = (weight.spec.groups, shape[0]) if transposed else (shape[0], weight.spec.groups)
        places = groups if form.group_size else (shape[0],)
        return (
            Initializer(f"{name}.codes", dtype, sides, blocks),
            Initializer(f"{name}.scales", self._dtype, places, scales),
            Initializer(f"{name}.zeros", dtype, places, lambda: iter((about_zero(grouped(weight.zeros)),))),
        )

    def account(self, model: Architecture) -> dict[str, dict[str, int]]:
        """See :func:`ingot.stages.export.account.account`."""
        return account(self._used, self._checkpoint, self._quantized, model)

    def _weight(self, name: str, shape: tuple[int, int]) -> QuantizedWeight:
        if self._quantized is None:
            raise StageError(f"{name} is not quantized")
        weight = self._quantized.weight(name)
        bits = weight.spec.format.bits
        self._check_shape(name, weight.codes.shape, shape)
        self._check_shape(f"{name}.scales", weight.scales.shape, (shape[0], weight.spec.groups))
        self._check_shape(f"{name}.zeros", weight.zeros.shape, (shape[0], weight.spec.groups))
        is_integer = weight.spec.format.numeric == "int"
        if is_integer and weight.spec.format.sym and not np.all(weight.zeros == 2 ** (bits - 1)):
            raise CorruptError(
                f"{name} is called symmetric, but its zero points are not all {2 ** (bits - 1)}"
            )
        self._used[name] = (weight.spec.format.width, math.prod(shape))
        return weight

    def _check_shape(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise IntakeError(
                f"the tensor {name} has the shape {list(found)}, the config asks for {list(expected)}",
                where=str(self._checkpoint.directory),
            )

    def _release(self, name: str) -> None:
        self._checkpoint.tensors.release(f"{name}.codes")


def _check_codes(weight: QuantizedWeight, codes: npt.NDArray[np.uint8]) -> None:
    highest = int(codes.max(initial=0))
    if highest >= 2**weight.spec.format.bits:
        raise CorruptError(f"{weight.name} holds the code {highest} in {weight.spec.format.bits} bits")


def _signed(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Codes about 128 as codes about 0: the top bit flipped."""
    return np.ascontiguousarray(codes ^ np.uint8(128)).view(np.int8)
