"""Carries out a merge: tensor by tensor, in blocks, into safetensors files that are hashed on the way.

Memory that the system cannot take back is bounded by the number of threads and the size of blocks, whatever
the size of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...artifacts.errors import InputError
from ...artifacts.tensor_header import DTYPE_BITS
from ...artifacts.tensors import SafetensorsWriter
from ..model.checkpoint import WEIGHTS_FILE
from .blocks import BLOCK_ELEMENTS, Blocks, Workers, single_threaded
from .operands import DTYPES, StoredOperand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ...artifacts.outbox import Outbox
    from ..base import Progress
    from .method import Kernel, Method
    from .task import Operand, TensorTask

    # Some consecutive bytes of a tensor.
    Span = memoryview

COPY_BYTES = 8 << 20


def execute(
    tasks: Sequence[TensorTask],
    methods: Mapping[str, Method],
    output: Outbox,
    *,
    job: Path,  # noqa: ARG001
    seed: int,
    threads: int,
    progress: Progress,
    max_shard_bytes: int | None = None,  # noqa: ARG001
    block_elements: int = BLOCK_ELEMENTS,
) -> Mapping[str, object]:
    """Writes every task's tensor into `model.safetensors`, or into shards and an index; what was observed.

    methods: those that tasks name.  job: where finished tensors outlive a kill; the directory is that of one
    key.  max_shard_bytes: of a file, above which weights are split; None keeps one file.  Neither threads nor
    ``block_elements`` change a byte.  Raises InputError, before anything is written, for a task that cannot
    be carried out.
    """
    for task in tasks:
        check(task, methods[task.method])
    ordered = sorted(tasks, key=lambda task: -DTYPE_BITS[task.output.dtype])
    total, done = sum(task.output.nbytes for task in ordered), 0
    with (
        single_threaded(),
        Workers(threads) as workers,
        output.create(WEIGHTS_FILE) as stream,
        SafetensorsWriter(stream, [task.output for task in ordered]) as writer,
    ):
        for task in ordered:
            progress(done, total, task.output.name)
            made = make(task, methods[task.method], workers, seed, block_elements)
            writer.write_parts(task.output.name, made)
            done += task.output.nbytes
            for operand in operands(task):
                operand.release()
    progress(total, total, "merged")
    return {"tensors": len(ordered)}


def check(task: TensorTask, method: Method) -> None:
    """Raises InputError for operands of another shape than the output, or of no fit dtype, and for what the
    method itself refuses.
    """
    output = task.output
    for operand in operands(task):
        if operand.shape != output.shape:
            what = f"{operand.label} has the shape {list(operand.shape)}, not {list(output.shape)}"
            raise InputError(what, where=output.name)
        dtype = operand.stored.dtype if operand.stored else "F32"
        is_alone = len(operands(task)) == 1 and dtype == output.dtype
        if dtype not in DTYPES and not is_alone:
            what = f"{operand.label} is {dtype}, which no arithmetic is done on"
            raise InputError(what, where=output.name)
    if method.check is not None:
        method.check(task)


def operands(task: TensorTask) -> list[Operand]:
    """All that a task reads, the base first."""
    return [*([task.base] if task.base else []), *(each.operand for each in task.inputs)]


def make(
    task: TensorTask, method: Method, workers: Workers, seed: int, block_elements: int = BLOCK_ELEMENTS
) -> Iterator[Span]:
    """A task's tensor as bytes, in order; each span is valid until the next is asked for."""
    blocks = Blocks(
        task.output.name, task.output.shape, workers, unit=method.unit, seed=seed, elements=block_elements
    )
    made = method.merge(task, blocks)
    if not callable(made):
        stored = made.stored
        if stored is not None and stored.dtype == task.output.dtype and isinstance(made, StoredOperand):
            yield from _copied(made)
            return
        made = _reading(made)
    dtype = getattr(torch, DTYPES[task.output.dtype])
    yield from workers.each(_narrowing(made, blocks, dtype), blocks.ranges(), workers.count)


def _copied(operand: StoredOperand) -> Iterator[Span]:
    data = operand.raw().data
    for start in range(0, len(data), COPY_BYTES):
        yield data[start : start + COPY_BYTES]


def _reading(operand: Operand) -> Kernel:
    return lambda block: block.read(operand)


def _narrowing(kernel: Kernel, blocks: Blocks, dtype: torch.dtype) -> Callable[[range], Span]:
    def narrowed(indices: range) -> Span:
        first = blocks.block(indices[0]).start
        out = torch.empty(blocks.block(indices[-1]).stop - first, dtype=dtype)
        for index in indices:
            block = blocks.block(index)
            out[block.start - first : block.stop - first].copy_(kernel(block))
        span: Span = out.view(torch.uint8).numpy().data
        return span

    return narrowed
