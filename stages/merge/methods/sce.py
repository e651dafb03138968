"""`sce`: select elements that vary, calculate weights from energies, erase minority signs (arXiv:2408.07990).

Of the differences τᵢ from the base, the elements whose variance between the models is largest are kept
(Select); each model's weight is Σ τᵢ² of what is kept (Calculate); at each element those τᵢ count whose sign
is that of Σ τᵢ (Erase): b + Σ wᵢ τᵢ / Σ wᵢ (Wan and others: FuseChat).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..method import Method, Parameter
from ..stage import merge_stage
from ..task_vectors import base_of, difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ..blocks import Block, Blocks
    from ..method import Kernel
    from ..selection import Cut
    from ..task import Operand, TensorTask

# Weights that add up to less at an element count as it: that of mergekit.
LEAST_DIVISOR = 1e-6


def merge(task: TensorTask, blocks: Blocks) -> Kernel | Operand:
    """The base and what the models agree on, weighted."""
    import torch

    base, used = base_of(task), [each.operand for each in task.inputs]
    share = task.number("select_topk")
    cut = _select(blocks, base, used, share) if share < 1 else None
    if share < 1 and cut is None:
        return base

    def selected(block: Block) -> tuple[torch.Tensor, list[torch.Tensor]]:
        origin = block.read(base)
        deltas = [difference(block, origin, each) for each in used]
        if cut is not None:
            kept = cut.keeps(variance(deltas), block)
            deltas = [delta.mul_(kept) for delta in deltas]
        return origin, deltas

    def energies(block: Block) -> torch.Tensor:
        return torch.stack([delta.square().sum(dtype=torch.float64) for delta in selected(block)[1]])

    found = blocks.sum(energies)
    weights = (found / found.sum() if found.sum() > 0 else torch.full_like(found, 1 / len(used))).float()

    def kernel(block: Block) -> torch.Tensor:
        origin, deltas = selected(block)
        total = block.new().zero_()
        for delta in deltas:
            total.add_(delta)
        elected = torch.where(total >= 0, 1.0, -1.0)
        mixed, divisor = total.zero_(), block.new().zero_()
        for delta, weight in zip(deltas, weights, strict=True):
            counted = (delta.sign() == elected) * weight
            mixed.addcmul_(delta, counted)
            divisor.add_(counted)
        return mixed.div_(divisor.clamp_(min=LEAST_DIVISOR)).add_(origin)

    return kernel


def variance(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """The variance of each element between the models, float32 [count]; exactly 0 where all are the same."""
    import torch

    apart = torch.stack([delta - deltas[0] for delta in deltas])
    return apart.sub_(apart.mean(0)).square_().mean(0)


def _select(blocks: Blocks, base: Operand, used: Sequence[Operand], share: float) -> Cut | None:
    """Which elements vary most, a share of those that vary at all; None where that is none."""
    from ..selection import largest

    def variances(block: Block) -> list[torch.Tensor]:
        origin = block.read(base)
        return [variance([difference(block, origin, each) for each in used])]

    count = int(share * sum(blocks.map(lambda block: int(variances(block)[0].count_nonzero()))))
    return largest(blocks, variances, [count])[0] if count else None


METHOD = Method(
    "sce",
    merge,
    summary="Select what varies, weight models by their energy, erase minority signs",
    paper="arXiv:2408.07990",
    base="required",
    parameters=(
        Parameter(
            "select_topk", "the share of elements kept, of those that differ between the models; 1 keeps all",
            default=1.0, minimum=0.0, maximum=1.0,
        ),
        Parameter(
            "int8_mask", "how mergekit holds masks; it changes nothing here",
            default=False, kind=bool, is_ignored=True,
        ),
    ),
)  # fmt: skip

run = merge_stage(METHOD, __name__)
