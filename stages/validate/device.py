"""What measuring on a device takes, and what of that device the numbers depend on."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Protocol

from ...targets.gpu import probe
from ...targets.runtimes.program import CUDA, cuda_needs
from ..base import Requirement

if TYPE_CHECKING:
    from collections.abc import Mapping

DEVICES = ("cpu", CUDA)
DEVICE_DOC = "where the artifact runs; a target that is for a GPU says cuda, and is unverified without one"


class OnDevice(Protocol):
    """Parameters that name a device."""

    @property
    def device(self) -> str:
        """One of DEVICES."""


def requirements(params: OnDevice) -> tuple[Requirement, ...]:
    """The device, and a torch that runs on it; where they are missing the target is unverified."""
    if params.device != CUDA:
        return ()
    return tuple(Requirement(name, met, fix, is_device=True) for name, met, fix in cuda_needs())


def versions(params: OnDevice) -> Mapping[str, str | None]:
    """The GPU and the torch that results on it depend on."""
    if params.device != CUDA:
        return {}
    gpus = [f"{gpu.name} sm{gpu.sm} CUDA {gpu.driver}" for gpu in probe()]
    return {"gpu": gpus[0] if gpus else None, "torch": importlib.metadata.version("torch")}
