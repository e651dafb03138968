"""How what trains is spread over processes: a copy in each (DDP), or a share of every weight in each (FSDP).

Shares are those of torch's `fully_shard` (FSDP2, arXiv:2304.11277): rows of a parameter by process, whole for
as long as its block computes. The network that was given stays as it is then: a twin trains, and what it
learned goes back into the first.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.parametrize import ParametrizationList

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .objective import Batch, Loss, Objective

FSDP = "fsdp"


class Both(torch.nn.Module):
    """The network and its objective as one module, so that what both train is spread together.

    dtype: of matrix products.
    """

    def __init__(self, network: torch.nn.Module, objective: Objective, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self._dtype = dtype

    def forward(self, batch: Batch, *, chooses: bool = False) -> Loss | torch.Tensor:
        """The loss of a batch or, where it chooses, what points are chosen by."""
        with torch.autocast(batch.ids.device.type, self._dtype, enabled=self._dtype != torch.float32):
            if chooses:
                return self.objective.selection(self.network, batch)
            return self.objective.loss(self.network, batch)


@dataclass(frozen=True, eq=False)
class Spread:
    """What trains in this process. called: for gradients.  both: the same without waiting for others.

    given: the network that came in, by the names that both networks have for their parameters.
    """

    called: Any
    both: Both
    given: Mapping[str, torch.nn.Parameter]

    @functools.cached_property
    def _places(self) -> dict[int, torch.nn.Parameter]:
        now = dict(self.both.network.named_parameters())
        return {id(each): now[name] for name, each in self.given.items()}

    @property
    def own(self) -> dict[str, torch.nn.Parameter]:
        """The network's parameters that train, or shares of them."""
        return {name: each for name, each in self.both.network.named_parameters() if each.requires_grad}

    @property
    def added(self) -> dict[str, torch.nn.Parameter]:
        """The objective's."""
        return dict(self.both.objective.named_parameters())

    def current(self, given: torch.nn.Parameter) -> torch.nn.Parameter:
        """What trains in the place of a parameter of the network that came in."""
        return self._places[id(given)]

    def leave(self, values: Mapping[str, torch.Tensor]) -> None:
        """Gives the network that came in its weights, by name."""
        with torch.no_grad():
            for name, value in values.items():
                self.given[name].copy_(value)


def spread(both: Both, accelerator: Accelerator, kind: str) -> Spread:
    """Spreads what trains over the processes of an accelerator; kind: `ddp` or `fsdp`."""
    given = dict(both.network.named_parameters())
    if kind != FSDP:
        return Spread(accelerator.prepare(both), both, given)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It warns of views among what a network gives, which no objective changes in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    # A twin whose parameters are others, of the same memory until each is cut into shares.
    twins = {id(each): torch.nn.Parameter(each.data, each.requires_grad) for each in given.values()}
    both.network = copy.deepcopy(both.network, dict(twins))
    # What was drawn at random is the first process' in all.
    for each in both.objective.parameters():
        torch.distributed.broadcast(each.data, 0)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in _blocks(both.network):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(both.network, mesh=mesh, reshard_after_forward=True)
    fully_shard(both, mesh=mesh, reshard_after_forward=True)
    return Spread(both, both, given)


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor of which each process has a share, whole and in main memory; others as they are.

    All processes have to ask for it at once.
    """
    from torch.distributed.tensor import DTensor

    value = value.detach()
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def share_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process' share of a tensor, cut and placed as ``like`` is, which has its shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _blocks(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The repeated parts of a network, outermost alone."""
    found: list[torch.nn.Module] = []
    for child in network.children():
        # Parametrizations are such lists too, of what computes one weight.
        if isinstance(child, torch.nn.ModuleList) and not isinstance(child, ParametrizationList):
            found += child
        else:
            found += _blocks(child)
    return found
