"""The checkpoint's tensors as modules of torch, quantized ones with their codes and scales as they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from ....artifacts.errors import IntakeError, StageError
from ..account import account

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...model.checkpoint import Checkpoint
    from ...model.families import Architecture, Linear
    from ...model.quantized import QuantizedCheckpoint, QuantizedWeight

    # A quantized weight and its bias as a module [..., in] → [..., out].
    Quantized = Callable[[QuantizedWeight, torch.Tensor | None], torch.nn.Module]


class Weights:
    """Gives modules by what they stand for; raises IntakeError for a tensor that is missing or misshapen.

    products: how many quantized maps it has given so far.
    """

    def __init__(
        self, checkpoint: Checkpoint, quantized: QuantizedCheckpoint | None, compute: Quantized
    ) -> None:
        self._checkpoint = checkpoint
        self._quantized = quantized
        self._specs = quantized.quantized if quantized else {}
        self._compute = compute
        self._used: dict[str, tuple[str, int]] = {}
        self.products = 0

    def read(self, name: str) -> torch.Tensor:
        """A tensor in float32."""
        tensors = self._checkpoint.tensors
        if name not in tensors:
            raise IntakeError(f"the tensor {name} is missing", where=str(self._checkpoint.directory))
        value = torch.from_numpy(tensors.float32(name).copy())
        self._used[name] = ("float32", value.numel())
        return value

    def linear(self, linear: Linear) -> torch.nn.Module:
        """A linear map, or the two that it is factored into."""
        modules = [self._linear(weight) for weight in linear.weights]
        return modules[0] if len(modules) == 1 else torch.nn.Sequential(*modules)

    def embedding(self, model: Architecture) -> torch.nn.Module:
        """The token embedding: ids int64 [1, tokens] → float32 [1, tokens, width]."""
        if model.embedding not in self._specs:
            return Embedding(self.read(model.embedding))
        weight = self._weight(model.embedding, (model.vocabulary, model.embedding_width))
        return CodedEmbedding(weight)

    def account(self, model: Architecture) -> dict[str, dict[str, int]]:
        """See :func:`ingot.stages.export.account.account`."""
        return account(self._used, self._checkpoint, self._quantized, model)

    def _linear(self, linear: Linear) -> torch.nn.Module:
        bias = self.read(linear.bias) if linear.bias else None
        if linear.name in self._specs:
            self.products += 1
            return self._compute(self._weight(linear.name, linear.shape), bias)
        weight = self.read(linear.name)
        weight = weight.T.contiguous() if linear.stored_in_out else weight
        if weight.shape != linear.shape:
            raise IntakeError(
                f"the tensor {linear.name} has the shape {list(weight.shape)}, the config asks for "
                f"{list(linear.shape)}",
                where=str(self._checkpoint.directory),
            )
        return plain_linear(weight, bias)

    def _weight(self, name: str, shape: tuple[int, int]) -> QuantizedWeight:
        if self._quantized is None:
            raise StageError(f"{name} is not quantized")
        weight = self._quantized.weight(name)
        if weight.codes.shape != shape:
            raise IntakeError(
                f"the tensor {name} has the shape {list(weight.codes.shape)}, the config asks for "
                f"{list(shape)}",
                where=str(self._checkpoint.directory),
            )
        self._used[name] = (weight.spec.format.width, math.prod(shape))
        return weight


def plain_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Linear:
    """A `torch.nn.Linear` of a weight [out, in], without its start from random numbers."""
    module: torch.nn.Linear = torch.nn.utils.skip_init(  # type: ignore[no-untyped-call]
        torch.nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None
    )
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        module.bias = torch.nn.Parameter(bias, requires_grad=False)
    return module


class Embedding(torch.nn.Module):
    """Rows of a table [vocabulary, width]."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(table, requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids int64 [1, tokens] → float32 [1, tokens, width]."""
        return torch.nn.functional.embedding(ids, self.table)


class CodedEmbedding(torch.nn.Module):
    """Rows of codes, scaled when they are looked up: a table as small as its codes."""

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
        size = weight.spec.format.group_size or weight.codes.shape[1]
        self.size = size
        # Whole groups alone can be laid out side by side; the last one may be short.
        self.width = weight.codes.shape[1]
        self.register_buffer("codes", torch.from_numpy(weight.codes.copy()))
        self.register_buffer("scales", torch.from_numpy(weight.scales.copy()))
        self.register_buffer("zeros", torch.from_numpy(weight.zeros.copy()))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids int64 [1, tokens] → float32 [1, tokens, width]."""
        rows = ids.reshape(-1)
        parts: tuple[Any, ...] = (self.codes, self.scales, self.zeros)
        codes, scales, zeros = (torch.index_select(part, 0, rows).to(torch.float32) for part in parts)
        if scales.shape[1] > 1:
            scales, zeros = (
                part.repeat_interleave(self.size, dim=1)[:, : self.width] for part in (scales, zeros)
            )
        return ((codes - zeros) * scales)[None]
