"""Programs of the lite interpreter on this machine, as older apps run them."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError, StageError
from ..host import physical_cores
from .onnx_about import read_about
from .onnx_graph import session_info
from .row_session import RowSession

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

FORMAT = "torchscript"
# A .ptl is a zip archive.
ZIP = b"PK\x03\x04"


def open(path: Path, *, threads: int | None = None) -> RowSession:  # noqa: A001 - its name
    """The artifact or delivery in a directory as a session; all physical cores unless ``threads`` says fewer.

    Raises InputError when the directory holds no program of the lite interpreter or it cannot be opened.
    """
    import torch

    about = read_about(path, FORMAT)
    place = path / str(about.get("file"))
    if not place.is_file() or place.is_symlink():
        raise InputError(f"{place.name} is not there", where=str(place), fix="build the artifact again")
    with place.open("rb") as stream:
        if stream.read(4) != ZIP:
            raise InputError(f"{place.name} is no program of the lite interpreter", where=str(place))
    torch.set_num_threads(threads or physical_cores())
    with _engine():
        from torch.jit.mobile import _load_for_lite_interpreter

        try:
            module = _load_for_lite_interpreter(str(place))  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise InputError(f"torch cannot open the program: {_first(error)}", where=str(place)) from None
    info = session_info(about, str(torch.__version__), "torch lite interpreter")
    return RowSession(info, lambda: _Program(module), keeps_past=False)


class _Program:
    def __init__(self, module: Any) -> None:
        self._module = module

    def run(self, ids: Ids, start: int) -> Floats:  # noqa: ARG002 - no past is kept
        """See :class:`ingot.targets.runtimes.row_session.RowProgram`."""
        import torch

        try:
            with _engine(), torch.no_grad():
                found = self._module(torch.from_numpy(ids[None].copy()))
        except RuntimeError as error:
            raise StageError(f"the lite interpreter failed: {_first(error)}") from None
        result: Floats = found[0].numpy()
        return result


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _engine() -> Iterator[None]:
    """Computes with QNNPACK, as the packed weights are of it; that TorchScript is deprecated is known."""
    import torch

    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "qnnpack"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.quantized.engine = before
