"""A task's tensor as bytes: made by its method block by block, or copied where it is stored as wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.tensor_header import DTYPE_BITS
from ..model.dtypes import NAMES
from . import native
from .blocks import BLOCK_ELEMENTS, KERNEL_ELEMENTS, Blocks, Fused
from .operands import StoredOperand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt
    import torch

    from .blocks import Block, Workers
    from .method import Method
    from .task import TensorTask

COPY_BYTES = 8 << 20


def make(
    task: TensorTask, method: Method, workers: Workers, seed: int, block_elements: int | None = None
) -> Iterator[memoryview]:
    """The output's little-endian bytes, in order; each part is valid until the next is asked for."""
    elements = block_elements or (BLOCK_ELEMENTS if native.library() is None else KERNEL_ELEMENTS)
    blocks = Blocks(task.output, workers, unit=method.unit, seed=seed, elements=elements)
    made = method.merge(task, blocks)
    dtype = task.output.dtype
    if isinstance(made, Fused):
        return blocks.write(made.write, DTYPE_BITS[dtype] // 8)
    if callable(made):
        return blocks.write(_rounded(made, dtype), DTYPE_BITS[dtype] // 8)
    if isinstance(made, StoredOperand) and made.dtype == dtype:
        data = made.raw().data
        return (data[start : start + COPY_BYTES] for start in range(0, len(data), COPY_BYTES))
    operand = made
    return blocks.write(_rounded(lambda block: block.read(operand), dtype), DTYPE_BITS[dtype] // 8)


def _rounded(
    kernel: Callable[[Block], torch.Tensor], dtype: str
) -> Callable[[Block, npt.NDArray[np.uint8]], None]:
    """What a kernel makes, rounded to nearest, ties to even."""
    import torch

    stored = getattr(torch, NAMES[dtype])

    def write(block: Block, out: npt.NDArray[np.uint8]) -> None:
        values = kernel(block)
        target = torch.from_numpy(out).view(stored)
        target.copy_(values)
        # What is no number has one form, whatever made it; torch rounds it in vectors as not elsewhere.
        if torch.isnan(values.sum()):
            target.masked_fill_(values.isnan(), float("nan"))

    return write
