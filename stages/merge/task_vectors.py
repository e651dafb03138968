"""What methods on differences from a base share: sparse differences, weighted, added with or without votes.

With xᵢ the inputs, b the base, mᵢ a mask of 0 and 1 and rᵢ what makes up for it, δᵢ = wᵢ rᵢ mᵢ (xᵢ − b).
The output is b + λ Σ δᵢ / s, s being 1 or the sum of the weights (task arithmetic: Ilharco and others,
arXiv:2212.04089). Where signs are voted on, both sums are, at each element, of those i alone whose δᵢ has the
sign of Σ δᵢ (TIES: Yadav and others, arXiv:2306.01708).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .masks import Dropped
from .method import Parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    import torch

    from .blocks import Block, Blocks, Fused
    from .masks import Mask, Sparsify
    from .method import Kernel, Merge
    from .task import Operand, TensorTask

    Float32 = npt.NDArray[np.float32]

# Below it, a sum of weights is taken for 0, and one of differences for none: those of mergekit.
LEAST_DIVISOR = 1e-8
LEAST_NORM = 1e-7


def parameters(
    *, normalize: bool, rescale: bool | None, extra: Sequence[Parameter] = ()
) -> tuple[Parameter, ...]:
    """The parameters of such a method. normalize, rescale: their defaults, None where nothing is sparse."""
    sparse = rescale is not None
    return (
        Parameter("weight", "the share of the model's difference", scope="non_base"),
        Parameter(
            "density", "the share of a difference's elements that is kept; 1 keeps all",
            scope="non_base", default=1.0, minimum=0.0, maximum=1.0, is_ignored=not sparse,
        ),
        *extra,
        Parameter(
            "normalize",
            "divide by the sum of the weights that count at an element" + (
                ", as the paper averages" if normalize else "; the differences are added as they are"
            ),
            default=normalize, kind=bool,
        ),
        Parameter(
            "rescale",
            "multiply what is kept of a difference so that its magnitudes add up to what they did",
            default=bool(rescale), kind=bool, is_ignored=not sparse,
        ),
        Parameter("lambda", "the factor of the summed differences; 1 adds them as they are", default=1.0),
        Parameter(
            "int8_mask", "how mergekit holds masks; it changes nothing here",
            default=False, kind=bool, is_ignored=True,
        ),
    )  # fmt: skip


def base_of(task: TensorTask) -> Operand:
    """The base, which methods of this kind always have."""
    if task.base is None:
        raise ValueError(f"{task.output.name}: {task.method} needs a base")
    return task.base


def difference(block: Block, base: torch.Tensor, operand: Operand) -> torch.Tensor:
    """An operand less the base's elements, in a buffer of its own."""
    return block.read(operand).sub_(base)


def merges(sparsify: Sparsify | None, *, votes: bool) -> Merge:
    """The method of that kind."""

    def merge(task: TensorTask, blocks: Blocks) -> Kernel | Fused:
        import numpy as np

        from . import native

        masks = sparsify(task, blocks) if sparsify else [None] * len(task.inputs)
        base, used = base_of(task), [each.operand for each in task.inputs]
        weights = np.array(task.numbers("weight"), np.float32)
        factors = weights * _rescaling(task, blocks, masks)
        scale, is_normalized = task.number("lambda"), bool(task.parameters["normalize"])
        if is_normalized and not votes:
            total = float(np.add.accumulate(weights)[-1])
            scale /= total if abs(total) >= LEAST_DIVISOR else 1.0
        voting = weights if votes else None
        made = native.differences(
            task.output.dtype, base, used, masks, factors, scale, voting, is_normalized=is_normalized
        )
        if made is not None:
            return made
        if votes:
            return _voted(base, used, masks, factors, scale, weights, is_normalized=is_normalized)
        return _added(base, used, masks, factors, scale)

    return merge


def _rescaling(task: TensorTask, blocks: Blocks, masks: Sequence[Mask | None]) -> Float32:
    """rᵢ of each input: Σ |xᵢ − b| over Σ mᵢ |xᵢ − b|; 1 where there is nothing to make up for."""
    import numpy as np

    from . import native
    from .lanes import magnitude_sum

    factors = np.ones(len(masks), np.float32)
    if not task.parameters["rescale"] or all(mask is None for mask in masks):
        return factors
    base, used = base_of(task), [each.operand for each in task.inputs]

    def norms(block: Block) -> npt.NDArray[np.float64]:
        if (fast := native.norms(block, base, used, masks)) is not None:
            return fast
        origin, found = block.read(base), np.empty((len(used), 2))
        for row, (operand, mask) in enumerate(zip(used, masks, strict=True)):
            delta = difference(block, origin, operand)
            found[row, 0] = magnitude_sum(delta.numpy())
            if mask is not None:
                mask(block, delta)
            found[row, 1] = magnitude_sum(delta.numpy())
        return found

    for number, (before, after) in enumerate(blocks.sum(norms).tolist()):
        if min(before, after) >= LEAST_NORM:
            factors[number] = before / after
    return factors


def _added(
    base: Operand, used: Sequence[Operand], masks: Sequence[Mask | None], factors: Float32, scale: float
) -> Kernel:
    def kernel(block: Block) -> torch.Tensor:
        origin, mixed, values = block.read(base), block.new().zero_(), block.new()
        for operand, mask, factor in zip(used, masks, _scalars(factors), strict=True):
            delta = block.read(operand, values).sub_(origin)
            if mask is not None:
                mask(block, delta)
            mixed.addcmul_(delta, factor)
        return mixed.mul_(scale).add_(origin)

    return kernel


def _voted(
    base: Operand,
    used: Sequence[Operand],
    masks: Sequence[Mask | None],
    factors: Float32,
    scale: float,
    weights: Float32,
    *,
    is_normalized: bool,
) -> Kernel:
    import torch

    def kernel(block: Block) -> torch.Tensor:
        origin, total = block.read(base), block.new().zero_()
        deltas = []
        for operand, mask, factor in zip(used, masks, _scalars(factors), strict=True):
            delta = difference(block, origin, operand)
            if mask is not None:
                mask(block, delta)
            total.add_(delta.mul_(factor))
            deltas.append(delta)
        # What sums to 0 counts as positive, and a difference of 0 has no sign and no vote.
        is_positive = total >= 0
        mixed, divisor = total.zero_(), block.new().zero_()
        for delta, weight in zip(deltas, _scalars(weights), strict=True):
            agrees = torch.where(is_positive, delta > 0, delta < 0)
            mixed.add_(delta.mul_(agrees))
            divisor.add_(agrees * weight)
        if is_normalized:
            mixed.div_(divisor.masked_fill_(divisor == 0, 1.0))
        return mixed.mul_(scale).add_(origin)

    return kernel


def _scalars(values: Float32) -> torch.Tensor:
    import torch

    return torch.from_numpy(values)


def drop(task: TensorTask, blocks: Blocks) -> Sequence[Mask | None]:
    """Keeps each element with the probability ``density`` (DARE: Yu and others, arXiv:2311.03099)."""
    shares = enumerate(task.numbers("density"))
    return [None if share >= 1 else Dropped(blocks.stream(number), share) for number, share in shares]
