"""What measuring on a device takes, and what of that device the numbers depend on."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Protocol

from ...targets.gpu import probe
from ...targets.libraries import NONE, RTX_SM, TENSORRT_RTX, tensorrt_library, version_of
from ...targets.runtimes.engine_about import FORMAT as ENGINE
from ...targets.runtimes.program import CUDA, cuda_needs
from ..base import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEVICES = ("cpu", CUDA)
FORMAT_DOC = "the kind of the artifact, filled in from the target where it runs on a device"
SM_DOC = "the lowest compute capability, times ten, of the profile's device; 0 for any"
# What opens an ONNX graph on a GPU; the package for processors does not.
ONNXRUNTIME_GPU = "onnxruntime-gpu"
# What Ingot writes and others run: what is missing to measure it, and what to do.
OTHERS = {
    "packed-checkpoint": (
        "a runtime of Ingot's for packed checkpoints",
        "load it in vLLM, TensorRT-LLM or transformers; the same codes in ONNX are measured",
    ),
}
LATER = "run `ingot validate DELIVERY` on a machine that has one"
DEVICE_DOC = "where the artifact runs; a target that is for a GPU says cuda, and is unverified without one"


class OnDevice(Protocol):
    """Parameters that name a device."""

    @property
    def device(self) -> str:
        """One of DEVICES."""

    @property
    def format(self) -> str:
        """The kind of the artifact, empty where nothing says it."""

    @property
    def sm(self) -> int:
        """The lowest compute capability, times ten."""


def requirements(params: OnDevice) -> tuple[Requirement, ...]:
    """The device, and what opens the artifact on it; where they are missing the target is unverified."""
    if params.format in OTHERS:
        name, fix = OTHERS[params.format]
        return (Requirement(name, False, fix, is_device=True),)
    if params.device != CUDA:
        return ()
    found = [Requirement(name, met, fix, is_device=True) for name, met, fix in _needs(params)]
    if params.sm:
        name = f"an NVIDIA GPU of SM {params.sm} or later"
        met = any(int(gpu.sm) >= params.sm for gpu in probe())
        found.insert(0, Requirement(name, met, LATER, is_device=True))
    return tuple(found)


def _needs(params: OnDevice) -> Iterable[tuple[str, bool, str]]:
    if params.format == ENGINE:
        return (*cuda_needs(), *_engine_needs())
    if params.format != "onnx":
        return cuda_needs()
    has_runtime = _is_installed(ONNXRUNTIME_GPU)
    gpu = () if params.sm else (("an NVIDIA GPU", bool(probe()), LATER),)
    return (*gpu, (f"{ONNXRUNTIME_GPU} on it", has_runtime, f"pip install {ONNXRUNTIME_GPU}"))


def _engine_needs() -> Iterable[tuple[str, bool, str]]:
    """A library that runs engines, and, where that is TensorRT-RTX, a GPU that it knows."""
    library, gpus = tensorrt_library(), probe()
    yield "a library that runs TensorRT engines", library != NONE, "pip install 'ingot[nvidia]'"
    if library == TENSORRT_RTX and gpus:
        known = int(gpus[0].sm) in RTX_SM
        yield (
            f"a TensorRT-RTX for SM {gpus[0].sm}",
            known,
            f"run it on a GPU of SM {', '.join(map(str, RTX_SM))}, or install the whole of TensorRT",
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def versions(params: OnDevice) -> Mapping[str, str | None]:
    """The GPU and the torch that results on it depend on."""
    if params.device != CUDA:
        return {}
    gpus = [f"{gpu.name} sm{gpu.sm} CUDA {gpu.driver}" for gpu in probe()]
    opened = ONNXRUNTIME_GPU if params.format == "onnx" else "torch"
    found = {opened: importlib.metadata.version(opened) if _is_installed(opened) else None}
    if params.format == ENGINE and (library := tensorrt_library()) != NONE:
        found[library] = version_of(library)
    return {"gpu": gpus[0] if gpus else None, **found}
