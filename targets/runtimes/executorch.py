"""ExecuTorch programs through its interpreter on this machine: the same file as on a phone."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError, RequirementError, StageError
from ..host import physical_cores
from .onnx_about import CAUSAL, read_about
from .onnx_graph import session_info
from .row_session import RowSession

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

FORMAT = "executorch"
# FlatBuffers' place for a file identifier, and what ExecuTorch's schema (program.fbs) declares there.
IDENTIFIER = b"ET"
FIX = "pip install 'ingot[arm]'"


def import_executorch() -> Any:
    """The module `executorch.runtime`, whose libraries register their kernels when they are loaded.

    Raises RequirementError where it is not installed. What it prints of the processor is kept back.
    """
    try:
        with _quiet():
            import executorch.runtime
    except ImportError as error:
        raise RequirementError(f"ExecuTorch is missing or does not load: {error}", fix=FIX) from None
    return executorch.runtime


def open(path: Path, *, threads: int | None = None) -> RowSession:  # noqa: A001 - its name
    """The artifact or delivery in a directory as a session; all physical cores unless ``threads`` says fewer.

    Raises InputError when the directory holds no ExecuTorch program or it cannot be opened, and
    RequirementError when ExecuTorch is missing.
    """
    about = read_about(path, FORMAT)
    place = path / str(about.get("file"))
    check_program(place)
    runtime = import_executorch()
    from executorch.extension.pybindings import portable_lib

    with _quiet():
        # Its only way to say how many threads there are; nothing runs yet.
        portable_lib._unsafe_reset_threadpool(threads or physical_cores())  # noqa: SLF001
        try:
            program = runtime.Runtime.get().load_program(str(place))
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["unknown"])[0]
            raise InputError(f"ExecuTorch cannot open the program: {reason}", where=str(place)) from None
    keeps_past = about["task"] == CAUSAL
    info = session_info(about, version(), "executorch")
    return RowSession(info, lambda: _Program(program, keeps_past=keeps_past), keeps_past=keeps_past)


def version() -> str:
    """The version of the installed distribution."""
    from importlib.metadata import version as installed

    return installed("executorch")


def check_program(place: Path) -> None:
    """Raises InputError unless a file is a plain one of ExecuTorch; its loader checks the rest."""
    if not place.is_file() or place.is_symlink():
        raise InputError(f"{place.name} is not there", where=str(place), fix="build the artifact again")
    with place.open("rb") as stream:
        if stream.read(8)[4:6] != IDENTIFIER:
            raise InputError(f"{place.name} is no program of ExecuTorch", where=str(place))


class _Program:
    """One loaded method with memory of its own, its past included."""

    def __init__(self, program: Any, *, keeps_past: bool) -> None:
        with _quiet():
            self._method = program.load_method("forward")
        self._keeps_past = keeps_past

    def run(self, ids: Ids, start: int) -> Floats:
        """See :class:`ingot.targets.runtimes.row_session.RowProgram`."""
        import torch

        given = [torch.from_numpy(ids[None].copy())]
        if self._keeps_past:
            given.append(torch.arange(start, start + len(ids), dtype=torch.int64))
        try:
            (found,) = self._method.execute(given)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["unknown"])[0]
            raise StageError(f"ExecuTorch failed: {reason}") from None
        # What it gives is its own memory, which the next call writes over.
        result: Floats = found[0].numpy().copy()
        return result


@contextlib.contextmanager
def _quiet() -> Any:
    """Keeps back what native code says on standard error, and Python's warnings, while libraries load."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            kept = os.dup(2)
        except (OSError, io.UnsupportedOperation):
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
