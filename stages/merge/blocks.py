"""One output tensor as its method sees it: in blocks, in as many passes as it takes, in parallel threads.

What comes out depends neither on threads nor on the size of blocks: sums are of chunks whose size is fixed,
added in their order.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

    from .method import Unit
    from .task import Operand

    T = TypeVar("T")
    S = TypeVar("S")

# In float32 this is a quarter of a megabyte: the few buffers of a block stay in a core's cache.
BLOCK_ELEMENTS = 1 << 16
# What is summed at once, whatever the size of blocks.
CHUNK_ELEMENTS = 1 << 16
# Blocks that one job takes, so that handing it to a thread costs little beside it.
GROUP = 16


class Workers:
    """Threads that make blocks. count: of them; one works in the thread that asks. A context manager."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(count, "ingot-merge") if count > 1 else None

    def arena(self) -> Arena:
        """The buffers of this thread, all free again."""
        if not hasattr(self._local, "arena"):
            self._local.arena = Arena()
        arena: Arena = self._local.arena
        arena.reset()
        return arena

    def each(self, function: Callable[[S], T], items: Iterable[S], ahead: int) -> Iterator[T]:
        """``function`` of each item, in their order; at most ``ahead`` results wait to be taken."""
        if self._pool is None:
            yield from map(function, items)
            return
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class Arena:
    """Buffers that one thread uses again for every block; none is freed, so nothing is mapped anew."""

    def __init__(self) -> None:
        self._buffers: dict[torch.dtype, list[torch.Tensor]] = {}
        self._used: dict[torch.dtype, int] = {}

    def reset(self) -> None:
        """All buffers are free."""
        self._used.clear()

    def take(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """A buffer of ``count`` elements, whatever they are."""
        number = self._used.get(dtype, 0)
        self._used[dtype] = number + 1
        buffers = self._buffers.setdefault(dtype, [])
        if number == len(buffers):
            buffers.append(torch.empty(count, dtype=dtype))
        elif len(buffers[number]) < count:
            buffers[number] = torch.empty(count, dtype=dtype)
        return buffers[number][:count]


class Block:
    """The elements [start, stop) of a tensor in C order; its number is ``index``.

    row: the elements of a row (the last dimension).  Its buffers are valid until its function returns.
    """

    def __init__(self, arena: Arena, index: int, start: int, stop: int, row: int) -> None:
        self.index = index
        self.start = start
        self.stop = stop
        self.row = row
        self._arena = arena

    @property
    def count(self) -> int:
        """How many elements it has."""
        return self.stop - self.start

    def new(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A buffer [count] of its own, not initialised."""
        return self._arena.take(self.count, dtype)

    def read(self, operand: Operand, out: torch.Tensor | None = None) -> torch.Tensor:
        """The operand's elements, float32 [count], in ``out`` or in a buffer of their own."""
        out = self.new() if out is None else out
        operand.read(self.start, self.stop, out)
        return out


class Blocks:
    """The blocks of an output tensor. shape: its.  row: elements of a row, its last dimension.

    unit: what a block holds whole.  elements: about how many a block has.  seed: what random methods draw
    from, together with the tensor's ``name``.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        workers: Workers,
        *,
        unit: Unit = "element",
        seed: int = 0,
        elements: int = BLOCK_ELEMENTS,
    ) -> None:
        self.name = name
        self.shape = shape
        self.seed = seed
        self.count = math.prod(shape)
        self.row = shape[-1] if shape else 1
        self._workers = workers
        self._unit = unit
        self._size = self._whole(elements)

    def ranges(self, size: int | None = None) -> Iterator[range]:
        """The numbers of all blocks, in groups. size: elements of a block, where it is another."""
        size = size or self._size
        total = -(-self.count // size)
        return (range(first, min(first + GROUP, total)) for first in range(0, total, GROUP))

    def block(self, index: int, size: int | None = None) -> Block:
        """The block with a number, in this thread's buffers, which all are free again."""
        size = size or self._size
        start = index * size
        return Block(self._workers.arena(), index, start, min(start + size, self.count), self.row)

    def map(self, function: Callable[[Block], T]) -> list[T]:
        """``function`` of each block, in order.

        What is made of the results must not depend on where blocks begin: exact counts may be added, rounded
        sums may not; see :meth:`sum`.
        """
        return [result for results in self._each(function, self._size) for result in results]

    def sum(self, function: Callable[[Block], torch.Tensor]) -> torch.Tensor:
        """The sum of ``function`` over the tensor, float64 of the shape that it gives (0 of no elements).

        It is called with chunks of a fixed size, of whole units, and gives float64 of its own, no buffer.
        """
        total: torch.Tensor | None = None
        for results in self._each(function, self._whole(CHUNK_ELEMENTS)):
            for result in results:
                total = result if total is None else total.add_(result)
        return torch.zeros((), dtype=torch.float64) if total is None else total

    def _whole(self, elements: int) -> int:
        if self._unit == "tensor":
            return max(1, self.count)
        unit = max(1, self.row) if self._unit == "row" else 1
        return max(1, elements // unit) * unit

    def _each(self, function: Callable[[Block], T], size: int) -> Iterator[list[T]]:
        def group(indices: range) -> list[T]:
            return [function(self.block(index, size)) for index in indices]

        return self._workers.each(group, self.ranges(size), self._workers.count)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Has torch compute in the thread that asks: blocks are parallel, and small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
