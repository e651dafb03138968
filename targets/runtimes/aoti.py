"""Artifacts of kind `aoti`: packages of AOTInductor, or the same programs run by torch itself.

`aoti` loads the packages that were compiled for this device and this torch; `compile` compiles the exported
programs in this process (torch.compile); `eager` runs them operator by operator, as a measure for both.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError
from .aoti_about import read_about
from .program import (
    COMPILED,
    CUDA,
    PROGRAMS,
    check_device,
    compile_packages,
    is_compiled,
    load_program,
    load_weights,
    tag,
)
from .static_session import GpuSession, StaticSession

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENGINES = (AOTI, COMPILE, EAGER) = ("aoti", "compile", "eager")


def open(  # noqa: A001 - its name
    path: Path, *, threads: int | None = None, engine: str | None = None, device: str | None = None
) -> StaticSession:
    """The artifact or delivery in a directory as a session.

    threads: of the processor.  engine: one of ENGINES, else the artifact's own.  device: `cuda` or `cpu`,
    else the artifact's own. Packages that are missing for this device are compiled, for this session alone;
    `prepare` keeps them. Raises InputError when the directory holds no such artifact, RequirementError
    without the device, and StageError when the compiler fails.
    """
    import torch

    about = read_about(path)
    device = device or str(about["device"])
    engine = engine or str(about["engine"])
    if engine not in ENGINES:
        raise InputError(f"there is no engine {engine!r}", fix=f"engines are {', '.join(ENGINES)}")
    check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    weights = load_weights(path, device)
    if engine == EAGER:
        # A graph of CUDA would launch its operators as one, which is what it is a measure for.
        about = {**about, "cuda_graphs": False}
    session = GpuSession if device == CUDA else StaticSession
    return session(about, _programs(path, about, engine, device), weights, device, engine)


def prepare(path: Path) -> Path | None:
    """Compiles the packages for this device and this torch where they are missing, and keeps them; their
    directory, None when they were there or the artifact's engine needs none.

    Raises as :func:`open` does.
    """
    about = read_about(path)
    device = str(about["device"])
    check_device(device)
    if about["engine"] != AOTI or is_compiled(path, device):
        return None
    return compile_packages(path, about, device, path / COMPILED)


def _programs(
    path: Path, about: Mapping[str, Any], engine: str, device: str
) -> dict[str, Callable[..., Any]]:
    if engine != AOTI:
        return {name: _in_process(path, name, engine, device) for name in PROGRAMS}
    if is_compiled(path, device):
        return _packages(path / COMPILED / tag(device), device)
    with tempfile.TemporaryDirectory(prefix="ingot-aoti-") as made:
        return _packages(compile_packages(path, about, device, Path(made)), device)


def _packages(place: Path, device: str) -> dict[str, Callable[..., Any]]:
    """Packages by program; they may be captured into CUDA graphs."""
    import torch

    return {
        name: torch._inductor.aoti_load_package(  # noqa: SLF001 - its documented name
            str(place / f"{name}.pt2"), run_single_threaded=device == CUDA
        )
        for name in PROGRAMS
    }


def _in_process(path: Path, name: str, engine: str, device: str) -> Callable[..., Any]:
    import torch

    module: Callable[..., Any] = load_program(path, name, device).module()
    if engine == EAGER:
        return module
    compiled: Callable[..., Any] = torch.compile(module)
    return compiled
