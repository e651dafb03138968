"""Pickled weights become safetensors: which tensors, in which order, by a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import StageError, from_json
from ...artifacts.tensor_header import DTYPE_BITS
from ..model.checkpoint import WEIGHTS_FILE
from ..model.weights import network_tensors
from .pickled import open_pickled, pickled_files
from .unpickle import Request

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from ...artifacts.tensors import TensorInfo
    from ..base import Context
    from .stage import LoadParams

CHILD = f"{__package__}.unpickle"


def convert_pickled(context: Context[LoadParams], directory: Path) -> None:
    """Writes the tensors of a directory of pickled weights to `model.safetensors` of the output.

    A tensor that is another one's memory under a second name, such as a tied head, is left out, as
    transformers does when it saves. Notes what was done. Raises IntakeError for what is wrong with the files,
    and StageError when the process that reads them dies.
    """
    expected = network_tensors(open_pickled(directory))
    infos = chosen(directory, expected)
    request = Request(
        context.output.payload / WEIGHTS_FILE, tuple(infos), tuple(info.file.resolve() for info in infos)
    )
    names = ", ".join(sorted({info.file.name for info in infos}))
    context.note(f"the weights were pickled ({names}) and have been converted to safetensors")
    carry_out(context, request, sum(info.nbytes for info in infos))


def chosen(directory: Path, expected: Collection[str]) -> list[TensorInfo]:
    """The tensors that are kept, in the order of their file: by falling element size, then by name."""
    seen: set[object] = set()
    kept: list[TensorInfo] = []
    files = pickled_files(directory)
    # Those that the network is made of come first: of two names for the same memory, theirs stays.
    pairs = [(name not in expected, name, file) for file in files for name in file.tensors]
    for unexpected, name, file in sorted(pairs, key=lambda pair: pair[:2]):
        memory = (file.path, file.tensors[name])
        if not (unexpected and memory in seen):
            kept.append(file.info(name))
        seen.add(memory)
    return sorted(kept, key=lambda info: (-DTYPE_BITS[info.dtype], info.name))


def carry_out(context: Context[Any], request: Request, total: int) -> None:
    """Runs the process that reads pickles, and tells how far it is in bytes."""
    command = [sys.executable, "-P", "-m", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None  # noqa: S101 - both were asked for above
        assert child.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):  # it died early: its status says so below
            child.stdin.write(request.to_line())
            child.stdin.close()
        for line in child.stdout:
            answer = json.loads(line)
            if "error" in answer:
                raise from_json(answer["error"])
            if answer.get("isolated") is False:
                context.note("this system cuts no process off the network: the pickle was read with one")
            context.progress(answer.get("bytes", 0), total, "bytes converted")
    if child.returncode:
        raise StageError(
            f"the process that reads pickled weights ended with status {child.returncode}",
            where=str(request.sources[0]),
            fix="the log has what it printed; ask for safetensors",
        )
