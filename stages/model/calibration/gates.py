"""What the loss feels of a channel: squared gradients of a gate that multiplies all that it carries.

With a gate of 1 on what a channel carries, a, the gradient of the loss for it is Σ a·∂L/∂a over the tokens
of a window: the first term of what the loss changes by without the channel. It is also Σ W∘∂L/∂W over the
columns of the maps that take the channel up, which asks for no activations. The loss is that of the own
tokens of the text; of a network without predictions see `fisher.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from .fisher import Fisher, Watched, drawn_labels, single_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....artifacts.tensors import TensorSource
    from ..blocks.network import Batch
    from ..blocks.tensors import BlockTensors
    from ..channels import Group
    from ..families import Architecture, Linear
    from .fisher import Report, Squares
    from .shelf import Shelf


class _Gates(Watched):
    """Tensors whose maps that take channels up are leaves of the graph."""

    def __init__(self, kept: BlockTensors, groups: Sequence[Group]) -> None:
        super().__init__(kept)
        self._groups = groups
        self._read = {reader.name for group in groups for reader in group.readers}
        self._leaves: dict[str, torch.Tensor] = {}

    def matrix(self, linear: Linear) -> torch.Tensor:
        if linear.name not in self._read:
            return self._kept.matrix(linear)
        if linear.name not in self._leaves:
            self._leaves[linear.name] = self._kept.matrix(linear).detach().requires_grad_()
        return self._leaves[linear.name]

    def given(self, _linear: Linear, value: torch.Tensor) -> torch.Tensor:
        return value

    def squares(self) -> Squares:
        """By label of a group, the squares of the gates' gradients [count]."""
        found = {}
        for group in self._groups:
            gates = [self._gate(reader, group) for reader in group.readers]
            if any(gate is not None for gate in gates):
                zero = torch.zeros(() if group.members else (group.count,))
                each = [zero if gate is None else gate for gate in gates]
                found[group.label] = (torch.stack(each) if group.members else sum(each, zero)).square()
        return found

    def _gate(self, reader: Linear, group: Group) -> torch.Tensor | None:
        leaf = self._leaves.get(reader.name)
        if leaf is None or leaf.grad is None:
            return None
        products = (leaf.detach() * leaf.grad).cpu()
        return products.sum() if group.members else products.sum(0).reshape(group.count, group.width).sum(1)


def gate_squares(
    model: Architecture,
    source: TensorSource,
    groups: Sequence[Group],
    batches: Sequence[Batch],
    shelf: Shelf,
    device: torch.device,
    threads: int,
    seed: int,
    progress: Report,
) -> Squares:
    """By label of a group, the mean over windows of its gates' squared gradients, float32 [count].

    Where maps of several blocks take a channel up, their squares are added. seed: of the numbers that stand
    in for the loss of a network without predictions.
    """
    windows = single_windows(batches)
    end = drawn_labels if model.task == "encoder" else _own_labels
    fisher = Fisher(
        model, source, windows, shelf, device, threads, seed, lambda kept: _Gates(kept, groups), end
    )
    found = {group.label: torch.zeros(group.count) for group in groups}
    for _, squares in fisher.walk(progress):
        for label, value in squares.items():
            found[label] += value / len(windows)
    return found


def _own_labels(given: torch.Tensor, _model: Architecture, batch: Batch, _seed: int) -> None:
    """Starts the way back at the loss of every token behind a window's first."""
    labels = batch.ids[:, 1:].to(given.device)
    loss = functional.cross_entropy(given[:, :-1].flatten(0, 1), labels.flatten(), reduction="sum")
    torch.autograd.backward(loss)
