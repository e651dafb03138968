"""The diagonal of the Fisher information of a network's weights: how much its predictions feel each of them.

F = E[(∂ log p(y | x) / ∂θ)²] over windows x of a text and tokens y drawn from the network's own predictions
(Matena and Raffel: Merging models with Fisher-weighted averaging, arXiv:2111.09832, section 3). The gradient
is that of a whole window, squared, window by window. A tensor that is used in two places, as a tied embedding
is, has the sum of both squares, without their product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .fisher import Fisher, Watched, single_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ....artifacts.tensors import TensorSource
    from ..blocks.network import Batch
    from ..blocks.tensors import BlockTensors
    from ..families import Architecture, Linear
    from .fisher import Report, Squares
    from .shelf import Shelf


class _Leaves(Watched):
    """Tensors that are leaves of the graph, each of them once."""

    def __init__(self, kept: BlockTensors, vocabulary: int) -> None:
        super().__init__(kept)
        self._vocabulary = vocabulary
        self._leaves: dict[str, torch.Tensor] = {}
        self._turned: set[str] = set()
        self._tables: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def vector(self, name: str) -> torch.Tensor:
        return self._leaf(name, self._kept.vector, name)

    def matrix(self, linear: Linear) -> torch.Tensor:
        if linear.stored_in_out:
            self._turned.add(linear.name)
        return self._leaf(linear.name, self._kept.matrix, linear)

    def rows(self, name: str, ids: torch.Tensor) -> torch.Tensor:
        found = self._kept.rows(name, ids).requires_grad_()
        self._tables.append((name, ids, found))
        return found

    def given(self, _linear: Linear, value: torch.Tensor) -> torch.Tensor:
        return value

    def squares(self) -> Squares:
        """By tensor, the squares of its gradient as it is stored; sparse where only some rows were read."""
        found = {
            name: (leaf.grad.T if name in self._turned else leaf.grad).square()
            for name, leaf in self._leaves.items()
            if leaf.grad is not None
        }
        for name, ids, read in self._tables:
            if read.grad is None:
                continue
            used, places = torch.unique(ids, return_inverse=True)
            total = torch.zeros(len(used), read.shape[-1], device=read.device)
            total.index_add_(0, places.flatten(), read.grad.reshape(-1, read.shape[-1]))
            shape = (self._vocabulary, read.shape[-1])
            squared = torch.sparse_coo_tensor(used[None], total.square_(), shape, check_invariants=True)
            found[name] = found[name] + squared if name in found else squared
        return found

    def _leaf(self, name: str, read: Callable[..., torch.Tensor], what: object) -> torch.Tensor:
        if name not in self._leaves:
            self._leaves[name] = read(what).detach().requires_grad_()
        return self._leaves[name]


def weight_fisher(
    model: Architecture,
    source: TensorSource,
    batches: Sequence[Batch],
    shelf: Shelf,
    device: torch.device,
    threads: int,
    seed: int,
    progress: Report,
) -> Iterator[tuple[str, Squares]]:
    """F by tensor, float32 in the shape that it is stored in, in parts that each have a name.

    A step's matrices come with it; tensors that several steps may share, and those outside the layers, come
    at last. seed: of the tokens that are drawn.
    """
    windows = single_windows(batches)
    vocabulary = source.info(model.embedding).shape[0]
    shared: Squares = {}
    fisher = Fisher(
        model, source, windows, shelf, device, threads, seed, lambda kept: _Leaves(kept, vocabulary)
    )
    for step, squares in fisher.walk(progress):
        own = {linear.name for linear in step.linears} - {model.embedding}
        yield step.name, {name: value / len(windows) for name, value in squares.items() if name in own}
        for name, value in squares.items():
            if name not in own:
                shared[name] = shared[name] + value if name in shared else value
    yield (
        "shared",
        {
            name: (value.to_dense() if value.is_sparse else value) / len(windows)
            for name, value in shared.items()
        },
    )
