"""What methods on differences from a base share: sparse differences, weighted, added with or without votes.

With xᵢ the inputs, b the base, mᵢ a mask of 0 and 1 and rᵢ what makes up for it, δᵢ = wᵢ rᵢ mᵢ (xᵢ − b).
The output is b + λ Σ δᵢ / s, s being 1 or the sum of the weights (task arithmetic: Ilharco and others,
arXiv:2212.04089). Where signs are voted on, both sums are, at each element, of those i alone whose δᵢ has the
sign of Σ δᵢ (TIES: Yadav and others, arXiv:2306.01708).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .method import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from .blocks import Block, Blocks
    from .method import Kernel, Merge
    from .task import Operand, TensorTask

    # Sets elements of a difference, float32 [count], to 0, in place.
    Mask = Callable[[Block, torch.Tensor], None]
    # The mask of each input; None for one that is kept whole.
    Sparsify = Callable[[TensorTask, Blocks], Sequence[Mask | None]]

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


def numbers(task: TensorTask, name: str) -> list[float]:
    """A parameter of each input."""
    return [float(each.parameters[name]) for each in task.inputs]  # type: ignore[arg-type]


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

    def merge(task: TensorTask, blocks: Blocks) -> Kernel | Operand:
        import torch

        masks = sparsify(task, blocks) if sparsify else [None] * len(task.inputs)
        weights = torch.tensor(numbers(task, "weight"), dtype=torch.float32)
        factors = weights * _rescaling(task, blocks, masks)
        combine = _voted if votes else _added
        return combine(task, masks, factors, weights)

    return merge


def _rescaling(task: TensorTask, blocks: Blocks, masks: Sequence[Mask | None]) -> torch.Tensor:
    """rᵢ of each input: Σ |xᵢ − b| over Σ mᵢ |xᵢ − b|; 1 where there is nothing to make up for."""
    import torch

    factors = torch.ones(len(masks))
    masked = [number for number, mask in enumerate(masks) if mask is not None]
    if not task.parameters["rescale"] or not masked:
        return factors
    base = base_of(task)

    def norms(block: Block) -> torch.Tensor:
        origin = block.read(base)
        found = torch.empty(len(masked), 2, dtype=torch.float64)
        for row, number in enumerate(masked):
            delta = difference(block, origin, task.inputs[number].operand)
            found[row, 0] = delta.abs().sum(dtype=torch.float64)
            masks[number](block, delta)  # type: ignore[misc] # it is there
            found[row, 1] = delta.abs_().sum(dtype=torch.float64)
        return found

    for number, (before, after) in zip(masked, blocks.sum(norms).reshape(-1, 2).tolist(), strict=False):
        if min(before, after) >= LEAST_NORM:
            factors[number] = before / after
    return factors


def _added(
    task: TensorTask, masks: Sequence[Mask | None], factors: torch.Tensor, weights: torch.Tensor
) -> Kernel:
    base, scale = base_of(task), float(task.parameters["lambda"])  # type: ignore[arg-type]
    if task.parameters["normalize"]:
        total = float(weights.sum())
        scale /= total if abs(total) >= LEAST_DIVISOR else 1.0
    used = [
        (each.operand, mask, factor) for each, mask, factor in zip(task.inputs, masks, factors, strict=True)
    ]

    def kernel(block: Block) -> torch.Tensor:
        origin, mixed, values = block.read(base), block.new().zero_(), block.new()
        for operand, mask, factor in used:
            delta = block.read(operand, values).sub_(origin)
            if mask is not None:
                mask(block, delta)
            mixed.addcmul_(delta, factor)
        return mixed.mul_(scale).add_(origin)

    return kernel


def _voted(
    task: TensorTask, masks: Sequence[Mask | None], factors: torch.Tensor, weights: torch.Tensor
) -> Kernel:
    import torch

    base, scale = base_of(task), float(task.parameters["lambda"])  # type: ignore[arg-type]

    def kernel(block: Block) -> torch.Tensor:
        origin, total = block.read(base), block.new().zero_()
        deltas = []
        for each, mask, factor in zip(task.inputs, masks, factors, strict=True):
            delta = difference(block, origin, each.operand)
            if mask is not None:
                mask(block, delta)
            total.add_(delta.mul_(factor))
            deltas.append(delta)
        # An element that sums to 0 counts as positive, and a difference of 0 has no sign and no vote.
        elected = torch.where(total >= 0, 1.0, -1.0)
        mixed, divisor = total.zero_(), block.new().zero_()
        for delta, weight in zip(deltas, weights, strict=True):
            agrees = delta.sign() == elected
            mixed.add_(delta.mul_(agrees))
            divisor.add_(agrees * weight)
        if task.parameters["normalize"]:
            mixed.div_(divisor.masked_fill_(divisor == 0, 1.0))
        return mixed.mul_(scale).add_(origin)

    return kernel


def drop(task: TensorTask, blocks: Blocks) -> Sequence[Mask | None]:
    """Keeps each element with the probability ``density`` (DARE: Yu and others, arXiv:2311.03099)."""
    import torch

    def mask_of(number: int, density: float) -> Mask:
        stream = blocks.stream(number)

        def mask(block: Block, delta: torch.Tensor) -> None:
            delta.mul_(torch.from_numpy(stream.keeps(block.start, block.stop, density)))

        return mask

    shares = enumerate(numbers(task, "density"))
    return [None if density >= 1 else mask_of(number, density) for number, density in shares]
