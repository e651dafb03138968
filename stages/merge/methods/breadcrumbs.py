"""`breadcrumbs`: add differences without their largest and smallest elements (arXiv:2312.06795).

Of each difference from the base a share gamma, the largest, is dropped as outliers, and of the rest the
smallest, so that a share density stays (Davari, Belilovsky: Model Breadcrumbs, with β = 1 − density − γ).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..method import Method, Parameter
from ..stage import merge_stage
from ..task_vectors import base_of, difference, merges, parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ..blocks import Block, Blocks
    from ..masks import Mask
    from ..selection import Cut
    from ..task import TensorTask

GAMMA = Parameter(
    "gamma", "the share of a difference's elements, its largest, that is dropped; fewer where density asks",
    scope="non_base", default=0.01, minimum=0.0, maximum=1.0,
)  # fmt: skip


def band(task: TensorTask, blocks: Blocks) -> Sequence[Mask | None]:
    """Keeps ⌊density n⌋ elements below the ⌊gamma n⌋ largest, or as far below as there are enough.

    Of equals the first count as larger.  A density of 1 keeps all.
    """
    from ..selection import largest

    base, number = base_of(task), blocks.count
    dropped, ends = [], []
    for density, gamma in zip(task.numbers("density"), task.numbers("gamma"), strict=True):
        kept = number if density >= 1 else int(density * number)
        dropped.append(min(int(gamma * number), number - kept))
        ends.append(dropped[-1] + kept)
    wanted = [
        (index, count)
        for index in range(len(ends))
        if 0 < ends[index] - dropped[index] < number
        for count in (dropped[index], ends[index])
        if 0 < count < number
    ]

    def magnitudes(block: Block) -> list[torch.Tensor]:
        origin = block.read(base)
        found = {i: difference(block, origin, task.inputs[i].operand).abs_() for i in {i for i, _ in wanted}}
        return [found[index] for index, _ in wanted]

    found = largest(blocks, magnitudes, [count for _, count in wanted]) if wanted else []
    cuts = dict(zip(wanted, found, strict=True))
    return [
        None if end - drop == number else _mask(cuts.get((index, drop)), cuts.get((index, end)), end - drop)
        for index, (drop, end) in enumerate(zip(dropped, ends, strict=True))
    ]


def _mask(above: Cut | None, within: Cut | None, kept: int) -> Mask:
    """Keeps what is within, and is not above. above, within: None for none and for all."""

    def mask(block: Block, delta: torch.Tensor) -> None:
        if not kept:
            delta.zero_()
            return
        sizes = delta.abs()
        if within is not None:
            delta.mul_(within.keeps(sizes, block))
        if above is not None:
            delta.mul_(~above.keeps(sizes, block))

    return mask


METHOD = Method(
    "breadcrumbs",
    merges(band, votes=False),
    summary="Add differences without their largest and smallest elements",
    paper="arXiv:2312.06795",
    base="required",
    parameters=parameters(normalize=False, rescale=False, extra=(GAMMA,)),
)

run = merge_stage(METHOD, __name__)
