"""`ties`: trim the differences, elect a sign for each element, average what has it (arXiv:2306.01708)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..method import Method
from ..stage import merge_stage
from ..task_vectors import base_of, difference, merges, numbers, parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ..blocks import Block, Blocks
    from ..selection import Cut
    from ..task import TensorTask
    from ..task_vectors import Mask


def trim(task: TensorTask, blocks: Blocks) -> Sequence[Mask | None]:
    """Keeps the largest of each difference, density × its elements and at least one; of equals, the first.

    A density of 0 keeps none, one of 1 all.
    """
    from ..selection import largest

    base, densities = base_of(task), numbers(task, "density")
    wanted = [number for number, density in enumerate(densities) if 0 < density < 1 and blocks.count]
    counts = [max(1, int(densities[number] * blocks.count)) for number in wanted]

    def magnitudes(block: Block) -> list[torch.Tensor]:
        origin = block.read(base)
        return [difference(block, origin, task.inputs[number].operand).abs_() for number in wanted]

    cuts = dict(zip(wanted, largest(blocks, magnitudes, counts), strict=True)) if wanted else {}
    return [_mask(cuts[i]) if i in cuts else (None if d >= 1 else _nothing) for i, d in enumerate(densities)]


def _mask(cut: Cut) -> Mask:
    def mask(block: Block, delta: torch.Tensor) -> None:
        delta.mul_(cut.keeps(delta.abs(), block))

    return mask


def _nothing(_block: Block, delta: torch.Tensor) -> None:
    delta.zero_()


METHOD = Method(
    "ties",
    merges(trim, votes=True),
    summary="Trim the differences, elect a sign for each element, average what has it",
    paper="arXiv:2306.01708",
    base="required",
    parameters=parameters(normalize=True, rescale=False),
)

run = merge_stage(METHOD, __name__)
