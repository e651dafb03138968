"""Opens an artifact or a delivery with the runtime that its `ingot.json` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError
from ...artifacts.strict_json import parse_object
from .onnx_about import DESCRIPTION, MOST_BYTES, SCHEMA

if TYPE_CHECKING:
    from pathlib import Path

    from .base import PairSession, Session

FORMATS = (ONNX, AOTI, EXECUTORCH, TORCHSCRIPT, ENGINE) = (
    "onnx", "aoti", "executorch", "torchscript", "tensorrt-engine",
)  # fmt: skip


def format_of(path: Path) -> str:
    """The format that the `ingot.json` in a directory names; raises InputError as :func:`read_session`."""
    return str(read_session(path)["format"])


def read_session(path: Path) -> dict[str, Any]:
    """What the `ingot.json` in a directory says, of whatever format; its runtime checks the rest of it.

    Raises InputError when it is missing or too large, is not of its schema, names a format that nothing here
    opens, or gives no size of its vocabulary.
    """
    place = path / DESCRIPTION
    if not place.is_file():
        raise InputError(f"there is no {DESCRIPTION}", where=str(path), fix="give a delivery's directory")
    with place.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    try:
        about = parse_object(data)
    except ValueError as error:
        raise InputError(f"{DESCRIPTION} {error}", where=str(place)) from None
    is_session = about.get("schema") == SCHEMA and about.get("format") in FORMATS
    if len(data) > MOST_BYTES or not is_session or not isinstance(about.get("vocabulary"), int):
        what = f"{DESCRIPTION} describes no session of {SCHEMA} in a format of {', '.join(FORMATS)}"
        raise InputError(what, where=str(place))
    return about


def import_runtime(path: Path) -> None:
    """Imports the libraries that open the artifact in a directory, so that opening takes its own time alone.

    Raises InputError for what :func:`format_of` refuses, and ImportError where a library is not installed.
    """
    form = format_of(path)
    if form == ONNX:
        from .library import import_onnxruntime

        import_onnxruntime()
    elif form == TORCHSCRIPT:
        import torch.jit.mobile
    elif form == EXECUTORCH:
        from .executorch import import_executorch

        import_executorch()
    elif form == ENGINE:
        import torch

        from .engine_about import read_about
        from .engine_file import import_library

        import_library(read_about(path).library)
    else:
        import torch._inductor.package  # noqa: F401 - for what importing it does


def open_session(path: Path, *, threads: int | None = None, device: str = "cpu") -> Session | PairSession:
    """The artifact or delivery in a directory as a session; all physical cores unless ``threads`` says fewer.

    device: where an ONNX graph runs, `cpu` or `cuda`; other artifacts are of one device.  Raises InputError
    for what :func:`format_of` refuses, and what the runtime's own `open` raises.
    """
    # Named one by one, for keys hold the source of what a stage imports.
    form = format_of(path)
    if form == AOTI:
        from . import aoti

        return aoti.open(path, threads=threads)
    if form == TORCHSCRIPT:
        from . import torchscript

        return torchscript.open(path, threads=threads)
    if form == EXECUTORCH:
        from . import executorch

        return executorch.open(path, threads=threads)
    if form == ENGINE:
        from . import engine

        return engine.open(path)
    from . import onnx

    return onnx.open(path, threads=threads, device=device)


def prepare(path: Path) -> str:
    """Makes what an artifact lacks to run on this machine, and keeps it beside its files.

    Gives what was done in a few words, empty for nothing.

    Raises InputError for what :func:`format_of` refuses, and what the runtime's own `prepare` raises.
    """
    if format_of(path) != AOTI:
        return ""
    from . import aoti

    place = aoti.prepare(path)
    return f"compiled for this device into {place.relative_to(path)}" if place else ""
