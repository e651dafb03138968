"""Windows worked on side by side: every thread takes whole batches through the model, one core each.

Threads that share one operation wait for the slowest at its end, which on a busy machine costs most of the
time; threads that share nothing do not. It also makes results independent of their number, to the last bit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from ..model.heap import return_freed_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

    from ..base import Progress
    from ..model.tokens import Windows

    Ids = npt.NDArray[np.int64]

R = TypeVar("R")

# Two full windows: more tokens at once are no faster, since weights are reused within a window already.
BATCH_TOKENS = 512
OUTPUT_BYTES = 32 << 20
BLOCK_BYTES = 1 << 20


def side_by_side(
    work: Callable[[Ids, Ids], R], windows: Windows, width: int, threads: int, progress: Progress
) -> Iterator[tuple[Ids, R]]:
    """(which windows, work(which, their ids [batch, length])) for all windows, longest first.

    width: float32 numbers that the model gives for a token; all threads together hold about 32 MiB of them.
    progress is told of tokens. An exception in ``work`` ends the rest.
    """
    return_freed_blocks()
    most_tokens = min(BATCH_TOKENS, OUTPUT_BYTES // (4 * width * threads))
    with ThreadPoolExecutor(threads) as pool:
        jobs = [(which, pool.submit(work, which, ids)) for which, ids in windows.batches(most_tokens)]
        done = 0
        try:
            for which, job in jobs:
                result = job.result()
                done += int(windows.lengths[which].sum())
                progress(done, windows.tokens, "tokens")
                yield which, result
        finally:
            for _, job in jobs:
                job.cancel()


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Rows of float32 numbers in blocks of about 1 MiB, which bounds what a computation over them needs."""
    size = max(1, BLOCK_BYTES // (4 * width))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
