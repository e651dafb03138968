"""One output tensor as its method sees it: in blocks, in as many passes as it takes, in parallel threads.

What comes out depends neither on threads nor on the size of blocks: sums are of chunks whose size is fixed,
added in their order.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from .random import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

    import torch

    from ...artifacts.tensor_header import TensorShape
    from .method import Unit
    from .task import Operand

T = TypeVar("T")
S = TypeVar("S")

# In float32 this is a quarter of a megabyte: the few buffers of a block stay in a core's cache.
BLOCK_ELEMENTS = 1 << 16
# Kernels have buffers of their own, so that calls alone count.
KERNEL_ELEMENTS = 1 << 18
# What is summed at once, whatever the size of blocks.
CHUNK_ELEMENTS = 1 << 18
# What one job takes of blocks, so that handing it to a thread costs little beside it.
GROUP_ELEMENTS = 1 << 21


class Workers:
    """Threads that make blocks, and the buffers they use again. count: of threads.  A context manager.

    Inside it torch computes in the thread that asks: blocks are parallel, and small.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._torch_threads: int | None = None
        self._local = threading.local()
        self._spare: list[npt.NDArray[np.uint8]] = []
        self._pool = ThreadPoolExecutor(count, "ingot-merge") if count > 1 else None

    def arena(self) -> Arena:
        """The buffers of this thread, all free again."""
        if not hasattr(self._local, "arena"):
            self._local.arena = Arena()
        arena: Arena = self._local.arena
        arena.reset()
        return arena

    def borrow(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """A buffer of at least so many bytes, until it is given back."""
        try:
            spare = self._spare.pop()
        except IndexError:
            return np.empty(nbytes, np.uint8)
        return spare if len(spare) >= nbytes else np.empty(nbytes, np.uint8)

    def give_back(self, buffer: npt.NDArray[np.uint8]) -> None:
        """Lets others have a buffer that was borrowed."""
        self._spare.append(buffer)

    def each(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """``function`` of each item, in their order; few results wait to be taken."""
        if self._pool is None:
            yield from map(function, items)
            return
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) > self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def __enter__(self) -> Self:
        if torch := sys.modules.get("torch"):
            self._torch_threads = torch.get_num_threads()
            torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._torch_threads is not None:
            sys.modules["torch"].set_num_threads(self._torch_threads)


class Arena:
    """Buffers that one thread uses again for every block; none is freed, so nothing is mapped anew."""

    def __init__(self) -> None:
        self._buffers: dict[object, list[Any]] = {}
        self._used: dict[object, int] = {}
        self._has_torch = False

    def reset(self) -> None:
        """All buffers are free."""
        self._used.clear()

    def tensor(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """A tensor of ``count`` elements, whatever they are."""
        import torch

        if not self._has_torch:
            torch.set_num_threads(1)  # a thread that is new to torch, or a process
            self._has_torch = True
        found: torch.Tensor = self._take(count, dtype, torch.empty)
        return found

    def array(self, count: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
        """An array of ``count`` elements, whatever they are."""
        found: npt.NDArray[Any] = self._take(count, dtype, np.empty)
        return found

    def _take(self, count: int, dtype: object, empty: Callable[..., Any]) -> Any:
        number = self._used.get(dtype, 0)
        self._used[dtype] = number + 1
        buffers = self._buffers.setdefault(dtype, [])
        if number == len(buffers):
            buffers.append(empty(count, dtype=dtype))
        elif len(buffers[number]) < count:
            buffers[number] = empty(count, dtype=dtype)
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

    def new(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A buffer [count] of its own, not initialised; float32 unless another dtype is given."""
        import torch

        return self._arena.tensor(self.count, dtype or torch.float32)

    def array(self, dtype: type[np.generic], count: int | None = None) -> npt.NDArray[Any]:
        """The same for numpy. count: where it is to be of another length."""
        return self._arena.array(self.count if count is None else count, dtype)

    def read(self, operand: Operand, out: torch.Tensor | None = None) -> torch.Tensor:
        """The operand's elements, float32 [count], in ``out`` or in a buffer of their own."""
        out = self.new() if out is None else out
        operand.read(self.start, self.stop, out)
        return out


@dataclass(frozen=True)
class Fused:
    """A kernel that rounds as well. write: fills ``out`` with a block of the output, in its dtype's bytes."""

    write: Callable[[Block, npt.NDArray[np.uint8]], None]


class Blocks:
    """The blocks of an output tensor.

    unit: what a block holds whole.  seed: what random methods draw from.  elements: about how many a block
    has.  row: the elements of a row, which is the last dimension; 1 without dimensions.
    """

    def __init__(
        self,
        output: TensorShape,
        workers: Workers,
        *,
        unit: Unit = "element",
        seed: int = 0,
        elements: int = BLOCK_ELEMENTS,
    ) -> None:
        self.name = output.name
        self.shape = output.shape
        self.count = output.count
        self.row = output.shape[-1] if output.shape else 1
        self.workers = workers
        self._seed = seed
        self._unit = unit
        self._size = self._whole(elements)

    def stream(self, number: int) -> Stream:
        """The random numbers of this tensor's elements, others for each input, by its number."""
        return Stream.of(self._seed, self.name, number)

    def map(self, function: Callable[[Block], T]) -> list[T]:
        """``function`` of each block, in order.

        What is made of the results must not depend on where blocks begin: exact counts may be added, rounded
        sums may not; see :meth:`sum`.
        """
        return list(self._each(function, self._size))

    def one(self, index: int, function: Callable[[Block], T]) -> T:
        """``function`` of the block with that number in :meth:`map`."""
        return function(self._block(index, self._size))

    def sample(self, function: Callable[[Block], T], pieces: int, elements: int) -> list[T]:
        """``function`` of a few small blocks, evenly spread; of none if they were most of the tensor."""
        size = self._whole(elements)
        total = self.count // size
        if self._unit == "tensor" or total < 4 * pieces:
            return []
        return [function(self._block(total * piece // pieces, size)) for piece in range(pieces)]

    def sum(self, function: Callable[[Block], Any]) -> Any:
        """The sum of ``function`` over the tensor.

        It is called with chunks of a fixed size, of whole units, and gives a new tensor or array of float64,
        no buffer; the first is added to.  A tensor without elements is one chunk without any.
        """
        total: Any = None
        with np.errstate(invalid="ignore"):
            for result in self._each(function, self._whole(CHUNK_ELEMENTS)):
                if total is None:
                    total = result
                else:
                    total += result
        return function(self._block(0, 1)) if total is None else total

    def write(
        self, function: Callable[[Block, npt.NDArray[np.uint8]], None], width: int
    ) -> Iterator[memoryview]:
        """The bytes that ``function`` fills in for each block, in order, those of several at a time.

        width: of an element, in bytes.  Each part is valid until the next is asked for.
        """

        def filled(indices: range) -> tuple[npt.NDArray[np.uint8], int]:
            first = indices[0] * self._size
            buffer = self.workers.borrow(len(indices) * self._size * width)
            for index in indices:
                block = self._block(index, self._size)
                function(block, buffer[(block.start - first) * width : (block.stop - first) * width])
            return buffer, (block.stop - first) * width

        for buffer, count in self.workers.each(filled, self._groups(self._size)):
            yield buffer[:count].data
            self.workers.give_back(buffer)

    def _each(self, function: Callable[[Block], T], size: int) -> Iterator[T]:
        def of_group(indices: range) -> list[T]:
            return [function(self._block(index, size)) for index in indices]

        for results in self.workers.each(of_group, self._groups(size)):
            yield from results

    def _groups(self, size: int) -> Iterator[range]:
        total, group = -(-self.count // size), max(1, GROUP_ELEMENTS // size)
        return (range(first, min(first + group, total)) for first in range(0, total, group))

    def _block(self, index: int, size: int) -> Block:
        start = min(index * size, self.count)
        return Block(self.workers.arena(), index, start, min(start + size, self.count), self.row)

    def _whole(self, elements: int) -> int:
        if self._unit == "tensor":
            return max(1, self.count)
        unit = max(1, self.row) if self._unit == "row" else 1
        return max(1, elements // unit) * unit
