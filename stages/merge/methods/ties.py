"""`ties`: trim the differences, elect a sign for each element, average what has it (arXiv:2306.01708)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..masks import Largest, nothing
from ..method import Method
from ..stage import merge_stage
from ..task_vectors import base_of, merges, parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..blocks import Blocks
    from ..masks import Mask
    from ..task import TensorTask


def trim(task: TensorTask, blocks: Blocks) -> Sequence[Mask | None]:
    """Keeps the largest of each difference, density × its elements and at least one; of equals, the first.

    A density of 0 keeps none, one of 1 all.
    """
    from ..selection import largest_differences

    densities = task.numbers("density")
    wanted = [number for number, density in enumerate(densities) if 0 < density < 1 and blocks.count]
    counts = [max(1, int(densities[number] * blocks.count)) for number in wanted]
    trimmed = [task.inputs[number].operand for number in wanted]
    cuts = dict(zip(wanted, largest_differences(blocks, base_of(task), trimmed, counts), strict=True))
    return [
        Largest(cuts[number]) if number in cuts else None if density >= 1 else nothing
        for number, density in enumerate(densities)
    ]


METHOD = Method(
    "ties",
    merges(trim, votes=True),
    summary="Trim the differences, elect a sign for each element, average what has it",
    paper="arXiv:2306.01708",
    base="required",
    parameters=parameters(normalize=True, rescale=False),
)

run = merge_stage(METHOD, __name__)
