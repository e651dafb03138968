"""The process that reads pickled weights: `python -m ingot.stages.load.unpickle`, without a network.

It is told of files and tensors by one line of JSON on its standard input, and writes them as safetensors.
Its answers are lines of JSON: {"bytes": written so far}, {"isolated": whether it was cut off the network},
{"error": ...}. The files were checked before (see `pickled.py`); what loads them here is torch's own reader
that makes tensors alone (weights_only).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import IngotError, IntakeError, to_json
from ...artifacts.tensor_header import HeaderFault, TensorShape, open_regular
from ...artifacts.tensor_writer import SafetensorsWriter
from .pickled import read_pickled, refused
from .torch_archive import check_crc

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# linux/sched.h
CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
TORCH_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """Which tensors of which files go to ``target``, in that order; ``sources``: tensor → its file."""

    target: Path
    layout: tuple[TensorShape, ...]
    sources: tuple[Path, ...]

    def to_line(self) -> str:
        """One line of JSON."""
        tensors = [
            [shape.name, shape.dtype, list(shape.shape), str(source)]
            for shape, source in zip(self.layout, self.sources, strict=True)
        ]
        return json.dumps({"target": str(self.target), "tensors": tensors}) + "\n"

    @staticmethod
    def from_line(line: str) -> Request:
        """The inverse of :meth:`to_line`."""
        value = json.loads(line)
        layout = tuple(TensorShape(name, dtype, tuple(shape)) for name, dtype, shape, _ in value["tensors"])
        return Request(Path(value["target"]), layout, tuple(Path(entry[3]) for entry in value["tensors"]))


def main() -> int:
    """Carries out the request on standard input; the exit status is 0, or 1 after an answer of an error."""
    answer({"isolated": isolate()})
    try:
        convert(Request.from_line(sys.stdin.readline()))
    except IngotError as error:
        answer({"error": to_json(error)})
        return 1
    return 0


def answer(value: object) -> None:
    """Sends one line to the stage."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def isolate() -> bool:
    """Leaves every network behind, where the system lets a process do that; whether it did.

    Linux alone can, and root there, or whoever may have a user namespace of his own; a sandbox may forbid
    both.
    """
    unshare = getattr(ctypes.CDLL(None), "unshare", None) if sys.platform.startswith("linux") else None
    return unshare is not None and (unshare(CLONE_NEWNET) == 0 or unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


def convert(request: Request) -> None:
    """Writes the tensors of a request as one safetensors file.

    Raises IntakeError when torch refuses a file, or makes of it anything but what its header says.
    """
    loaded = {path: load(path) for path in dict.fromkeys(request.sources)}
    done = 0
    with (
        request.target.open("xb", buffering=1 << 20) as stream,
        SafetensorsWriter(stream, request.layout) as writer,
    ):
        for expected, path in zip(request.layout, request.sources, strict=True):
            writer.write(expected.name, elements(loaded[path].get(expected.name), expected, path))
            done += expected.nbytes
            answer({"bytes": done})


def load(path: Path) -> dict[str, Any]:
    """What torch makes of one file: every CRC is checked first, and nothing but tensors is made."""
    file = read_pickled(path)
    with open_regular(path) as stream:
        try:
            for name, record in file.records.items():
                check_crc(stream, name, record)
        except HeaderFault as fault:
            raise refused(path, fault) from None
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=bool(file.records))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300]
        what = f"torch {torch.__version__} does not load it: {type(error).__name__}: {reason}"
        raise IntakeError(what, where=str(path), fix="ask for safetensors") from error
    if not isinstance(found, dict):
        raise IntakeError(f"torch made a {type(found).__name__} of it", where=str(path))
    return found


def elements(tensor: object, expected: TensorShape, path: Path) -> npt.NDArray[np.uint8]:
    """A tensor's elements in C order, as bytes; a copy only where they lie in another order.

    Raises IntakeError unless it is a plain tensor, with the dtype and shape of its header.
    """
    import torch

    if type(tensor) in (torch.Tensor, torch.nn.Parameter) and isinstance(tensor, torch.Tensor):
        dtype = TORCH_DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if dense and (dtype, tuple(tensor.shape)) == (expected.dtype, expected.shape):
            flat: npt.NDArray[np.uint8] = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            return flat
    what = f"{expected.name} is not the {expected.dtype} {list(expected.shape)} that its header says"
    raise IntakeError(what, where=str(path), fix="ask for safetensors")


if __name__ == "__main__":
    status = main()
    # What was asked for is on the disk; tearing torch down only takes time.
    os._exit(status)
