"""Masks of differences: each sets elements of a block of a difference to 0, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from .blocks import Block, Blocks
    from .random import Stream
    from .selection import Cut
    from .task import TensorTask

    # Takes a block and a difference, float32 [count].
    Mask = Callable[[Block, torch.Tensor], None]
    # The mask of each input; None for one that is kept whole.
    Sparsify = Callable[[TensorTask, Blocks], Sequence[Mask | None]]


class Largest:
    """Keeps the elements that a cut keeps."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut

    def __call__(self, block: Block, delta: torch.Tensor) -> None:
        """Sets the others to 0."""
        delta.mul_(self.cut.keeps(delta.abs(), block))


class Dropped:
    """Keeps each element with a probability below 1."""

    def __init__(self, stream: Stream, probability: float) -> None:
        self.stream = stream
        self.probability = probability

    def __call__(self, block: Block, delta: torch.Tensor) -> None:
        """Sets the others to 0."""
        import torch

        delta.mul_(torch.from_numpy(self.stream.keeps(block.start, block.stop, self.probability)))


def nothing(_block: Block, delta: torch.Tensor) -> None:
    """Keeps no element."""
    delta.zero_()
