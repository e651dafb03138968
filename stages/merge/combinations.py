"""Methods whose output is a combination of the inputs, with coefficients made of their inner products alone.

With vᵢ = xᵢ, or xᵢ − b where there is a base b, and Gᵢⱼ = ⟨vᵢ, vⱼ⟩, the output is Σ cᵢ(G) vᵢ, and b where
there is one. G is of the whole tensor, of each row or of each column. It is added up in float64, so that
angles between vectors that are almost parallel are exact; coefficients are float64 until they are applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .task_vectors import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from .blocks import Block, Blocks
    from .method import Kernel, Merge
    from .task import Operand, TensorTask

    # Inner products, float64 [..., n, n] → coefficients, float64 [..., n].
    Coefficients = Callable[[TensorTask, torch.Tensor], torch.Tensor]
    Vectors = Callable[[TensorTask], "Which"]

# What a vector is: the tensor; a row, along the last dimension; or a column, along the first of a matrix.
Which = Literal["tensor", "rows", "columns"]


def merges(coefficients: Coefficients, vectors: Vectors = lambda _: "tensor") -> Merge:
    """The method of that kind. vectors: what they are, for a task; rows need a method whose unit is a row."""

    def merge(task: TensorTask, blocks: Blocks) -> Kernel | Operand:
        which = vectors(task)
        used = [each.operand for each in task.inputs]
        if which == "rows":
            return _of_rows(used, task.base, lambda products: coefficients(task, products))
        if which == "columns":
            products = blocks.sum(lambda block: _columns(_vectors(block, used, task.base), block))
        else:
            products = blocks.sum(lambda block: _products(_vectors(block, used, task.base)))
        if not blocks.count:
            return used[0]
        return _of_all(used, task.base, coefficients(task, products).float())

    return merge


def norms(products: torch.Tensor) -> torch.Tensor:
    """‖vᵢ‖, [..., n], of their inner products [..., n, n]."""
    return products.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()


def cosines(products: torch.Tensor) -> torch.Tensor:
    """The cosines between the vectors, [..., n, n]; 0 with a vector that is 0."""
    lengths = norms(products)
    scale = lengths[..., :, None] * lengths[..., None, :]
    return (products / scale.masked_fill(scale == 0, 1)).clamp(-1, 1)


def _of_all(used: Sequence[Operand], base: Operand | None, coefficients: torch.Tensor) -> Kernel:
    """Coefficients: [n], or [columns, n]."""

    def kernel(block: Block) -> torch.Tensor:
        origin = block.read(base) if base else None
        total, values = block.new().zero_(), block.new()
        for operand, coefficient in zip(used, coefficients.unbind(-1), strict=True):
            block.read(operand, values)
            if origin is not None:
                values.sub_(origin)
            _by_rows(total, block).addcmul_(_by_rows(values, block), coefficient)
        return total if origin is None else total.add_(origin)

    return kernel


def _of_rows(
    used: Sequence[Operand], base: Operand | None, coefficients: Callable[[torch.Tensor], torch.Tensor]
) -> Kernel:
    import torch

    def kernel(block: Block) -> torch.Tensor:
        origin = block.read(base) if base else None
        vectors = [
            _by_rows(block.read(each) if origin is None else difference(block, origin, each), block)
            for each in used
        ]
        stacked = torch.stack(vectors, 1).double()
        found = coefficients(stacked @ stacked.mT).float()
        total = block.new().zero_()
        for vector, coefficient in zip(vectors, found.unbind(-1), strict=True):
            _by_rows(total, block).addcmul_(vector, coefficient[:, None])
        return total if origin is None else total.add_(origin)

    return kernel


def _vectors(block: Block, used: Sequence[Operand], base: Operand | None) -> list[torch.Tensor]:
    """What a block has of each vector, float64 [count]."""
    import torch

    origin = block.read(base) if base else None
    values, found = block.new(), []
    for operand in used:
        block.read(operand, values)
        found.append(block.new(torch.float64).copy_(values if origin is None else values.sub_(origin)))
    return found


def _products(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Inner products, float64 [n, n]."""
    import torch

    number = len(vectors)
    found = torch.empty(number, number, dtype=torch.float64)
    for i in range(number):
        for j in range(i, number):
            found[i, j] = found[j, i] = torch.dot(vectors[i], vectors[j])
    return found


def _columns(vectors: Sequence[torch.Tensor], block: Block) -> torch.Tensor:
    """Inner products by column, float64 [columns, n, n]."""
    import torch

    stacked = torch.stack([_by_rows(each, block) for each in vectors])
    return torch.einsum("irc,jrc->cij", stacked, stacked)


def _by_rows(values: torch.Tensor, block: Block) -> torch.Tensor:
    """[rows, row], of a block of whole rows; [1, count] of one that is of elements."""
    return values.view(-1, block.row) if block.count % block.row == 0 else values.view(1, -1)
