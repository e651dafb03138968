"""The kernels in `kernels.c`, where they were built: what torch does in many passes over a block, in one.

Each gives the same bytes as the code of its method that uses torch or numpy, which runs where there is no
library, or where a source, a mask or the number of inputs is none that the kernels know.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...artifacts.tensors import NUMPY_DTYPES
from .blocks import Fused
from .masks import Dropped, Largest, nothing
from .operands import StoredOperand
from .random import SETTLED, parts
from .selection import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .blocks import Block
    from .selection import Bracket
    from .task import Operand

    Float32 = npt.NDArray[np.float32]
    Float64 = npt.NDArray[np.float64]

ABI = 3
# What a kernel reads and writes itself; other dtypes go through a buffer of float32.
CODES = {"F32": 0, "BF16": 1}
MOST_INPUTS = 64
WORD = (1 << 64) - 1
ALL, CUT, BITS, NONE = range(4)
# Elements whose bits `ingot_keeps` fills in at once, and bytes behind them that are read.
DRAWN, BEHIND = 2048, 8

F32, I64, U64, ADDRESS = ctypes.c_float, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
SIGNATURES = {
    "ingot_linear": (ADDRESS, ADDRESS, I64, F32, ADDRESS, I64, I64),
    "ingot_blend": (ADDRESS, F32, F32, ADDRESS, I64, I64),
    "ingot_products": (ADDRESS, ADDRESS, I64),
    "ingot_norms": (ADDRESS, ADDRESS, I64, ADDRESS, I64),
    "ingot_search": (ADDRESS, ctypes.c_int32, ctypes.c_int32, ADDRESS, ADDRESS, I64),
    "ingot_keys": (ADDRESS, ADDRESS, I64),
    "ingot_added": (ADDRESS, ADDRESS, ADDRESS, I64, F32, ADDRESS, I64, I64),
    "ingot_voted": (ADDRESS, ADDRESS, ADDRESS, ADDRESS, I64, I64, F32, ADDRESS, I64, I64),
    "ingot_keeps": (U64, U64, I64, I64, I64, U64, U64, ADDRESS),
}


class _Source(ctypes.Structure):
    _fields_ = (("data", ADDRESS), ("dtype", I64))


class Mask(ctypes.Structure):
    """Which elements of a difference are kept, as `kernels.c` takes it."""

    _fields_ = (
        ("kind", I64),
        ("until", I64),
        ("bits", ADDRESS),
        ("first", I64),
        ("threshold", ctypes.c_double),
    )


@functools.cache
def library() -> Any | None:
    """The built kernels; None where there are none, or others than this module knows."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"kernels{suffix}")
        if path.is_file():
            return load(path)
    return None


def load(path: Path) -> Any | None:
    """A library of kernels; None for one that cannot be used here."""
    try:
        found = ctypes.CDLL(str(path))
        found.ingot_abi.restype = I64
        if found.ingot_abi() != ABI:
            return None
        for name, arguments in SIGNATURES.items():
            function = getattr(found, name)
            function.argtypes, function.restype = arguments, None
    except (OSError, AttributeError):
        return None
    return found


def fused(dtype: str, call: Callable[[Block, int, int], None]) -> Fused:
    """What writes a block's output: ``call`` is given the block, an address and the dtype's code there."""

    def write(block: Block, out: npt.NDArray[np.uint8]) -> None:
        if dtype in CODES:
            call(block, address(out), CODES[dtype])
            return
        values = block.array(np.float32)
        call(block, address(values), CODES["F32"])
        with np.errstate(all="ignore"):
            out.view(NUMPY_DTYPES[dtype])[:] = values

    return Fused(write)


def sources(block: Block, operands: Sequence[Operand]) -> ctypes.Array[_Source]:
    """The operands' elements of a block: where they are stored, or in buffers."""
    found = (_Source * len(operands))()
    for place, operand in zip(found, operands, strict=True):
        if isinstance(operand, StoredOperand) and operand.dtype in CODES:
            place.data = operand.address + block.start * (2 if operand.dtype == "BF16" else 4)
            place.dtype = CODES[operand.dtype]
            continue
        values = block.array(np.float32)
        place.data, place.dtype = address(values), CODES["F32"]
        if isinstance(operand, StoredOperand):
            with np.errstate(all="ignore"):
                values[:] = operand.raw().view(NUMPY_DTYPES[operand.dtype])[block.start : block.stop]
        else:
            import torch

            operand.read(block.start, block.stop, torch.from_numpy(values))
    return found


def address(array: npt.NDArray[Any]) -> int:
    """Where an array's elements are."""
    where: int = array.__array_interface__["data"][0]
    return where


def linear(dtype: str, operands: Sequence[Operand], weights: Sequence[float], divisor: float) -> Fused | None:
    """Σ weights · operands / divisor."""
    kernels = library()
    if kernels is None:
        return None
    factors = np.array(weights, np.float32)

    def call(block: Block, out: int, code: int) -> None:
        kernels.ingot_linear(
            sources(block, operands), address(factors), len(factors), divisor, out, code, block.count
        )

    return fused(dtype, call)


def blend(dtype: str, operands: Sequence[Operand], factors: tuple[float, float]) -> Fused | None:
    """factors · operands, of two."""
    kernels = library()
    if kernels is None:
        return None

    def call(block: Block, out: int, code: int) -> None:
        kernels.ingot_blend(sources(block, operands), *factors, out, code, block.count)

    return fused(dtype, call)


def products(block: Block, operands: Sequence[Operand]) -> Float64 | None:
    """⟨a, a⟩, ⟨b, b⟩ and ⟨a, b⟩ of two operands, float64 [3]."""
    kernels = library()
    if kernels is None:
        return None
    found = np.empty(3)
    kernels.ingot_products(sources(block, operands), address(found), block.count)
    return found


def norms(
    block: Block, base: Operand, operands: Sequence[Operand], masks: Sequence[object]
) -> Float64 | None:
    """Σ |x − base| and what a mask leaves of it, of each operand, float64 [n, 2]."""
    kernels = _knowing(masks)
    if kernels is None:
        return None
    found = np.empty((len(operands), 2))
    kernels.ingot_norms(
        sources(block, [base, *operands]),
        _masks(kernels, block, masks),
        len(operands),
        address(found),
        block.count,
    )
    return found


def differences(
    dtype: str,
    base: Operand,
    operands: Sequence[Operand],
    masks: Sequence[object],
    factors: Float32,
    scale: float,
    weights: Float32 | None = None,
    *,
    is_normalized: bool = False,
) -> Fused | None:
    """base + scale Σ factors · masks · (operands − base). weights: those of the votes, where signs are."""
    kernels = _knowing(masks)
    if kernels is None:
        return None
    number = len(operands)

    def call(block: Block, out: int, code: int) -> None:
        read, kept = sources(block, [base, *operands]), _masks(kernels, block, masks)
        rest = (scale, out, code, block.count)
        if weights is None:
            kernels.ingot_added(read, kept, address(factors), number, *rest)
        else:
            kernels.ingot_voted(read, kept, address(factors), address(weights), number, is_normalized, *rest)

    return fused(dtype, call)


def search(block: Block, base: Operand, operand: Operand, bracket: Bracket) -> Found | None:
    """What |operand − base| has of a bracket."""
    kernels = library()
    if kernels is None:
        return None
    inside, found = block.array(np.int32), np.empty(4, np.int64)
    kernels.ingot_search(
        sources(block, [base, operand]),
        bracket.low,
        bracket.high,
        address(inside),
        address(found),
        block.count,
    )
    above, high, low, filled = found.tolist()
    return Found(above, high, low, inside[:filled].copy())


def keys(block: Block, base: Operand, operand: Operand) -> npt.NDArray[np.int32]:
    """The bits of |operand − base| of a block, in a buffer; only where there are kernels."""
    kernels, found = library(), block.array(np.int32)
    if kernels is None:
        raise AssertionError("there are no kernels")
    kernels.ingot_keys(sources(block, [base, operand]), address(found), block.count)
    return found


def _knowing(masks: Sequence[object]) -> Any | None:
    """The library, where it knows such masks and takes so many."""
    is_known = all(isinstance(each, Largest | Dropped | None) or each is nothing for each in masks)
    return library() if is_known and len(masks) <= MOST_INPUTS else None


def _masks(kernels: Any, block: Block, masks: Sequence[object]) -> ctypes.Array[Mask]:
    """The masks as the kernels take them, for a block."""
    found = (Mask * len(masks))()
    for place, mask in zip(found, masks, strict=True):
        if mask is None:
            place.kind = ALL
        elif isinstance(mask, Largest):
            cut = mask.cut
            place.kind, place.until, place.threshold = CUT, cut.last + 1 - block.start, cut.threshold
        elif isinstance(mask, Dropped):
            begin = block.start // SETTLED * SETTLED
            place.kind, place.first = BITS, block.start - begin
            place.bits = _kept(kernels, block, mask, begin)
        else:
            place.kind = NONE
    return found


def _kept(kernels: Any, block: Block, mask: Dropped, begin: int) -> int:
    """Where `Stream.keeps` of the elements from ``begin`` to a block's end is, as bits."""
    count = block.stop - begin
    kept = block.array(np.uint8, -(-count // DRAWN) * DRAWN // 8 + BEHIND)
    low, high = mask.stream.key & WORD, mask.stream.key >> 64
    width, whole, rest = parts(mask.probability)
    kernels.ingot_keeps(low, high, begin, count, width, whole, rest, address(kept))
    return address(kept)
