"""Tensors to files of safetensors: into one, or split as transformers splits them, with an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....artifacts.tensor_header import DTYPE_BITS, TensorShape
from ....artifacts.tensors import SafetensorsWriter
from ...model import shards
from ...model.checkpoint import INDEX_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ....artifacts.outbox import Outbox

    Make = Callable[[], Any]


@dataclass(frozen=True)
class Entry:
    """A tensor to write. make: its elements, made when their turn has come and dropped once written."""

    shape: TensorShape
    make: Make


def split(units: Iterable[Sequence[Entry]], most_bytes: int) -> list[list[Entry]]:
    """The entries of each file: see :func:`ingot.stages.model.shards.split`."""
    return shards.split(units, lambda entry: entry.shape, most_bytes)


def write(
    files: Sequence[Sequence[Entry]], output: Outbox, advance: Callable[[int, str], None]
) -> tuple[str, ...]:
    """Writes the files, tensor by tensor, and the index where there are several; gives their names.

    Tensors are ordered by falling element size, which keeps all of them aligned.
    advance: told of each tensor's bytes and name.
    """
    names = shards.file_names(len(files))
    for name, entries in zip(names, files, strict=True):
        ordered = sorted(entries, key=lambda entry: -DTYPE_BITS[entry.shape.dtype])
        with (
            output.create(name) as stream,
            SafetensorsWriter(stream, [entry.shape for entry in ordered]) as writer,
        ):
            for entry in ordered:
                writer.write(entry.shape.name, entry.make())
                advance(entry.shape.nbytes, entry.shape.name)
    if len(files) > 1:
        held = zip(names, files, strict=True)
        output.write_json(
            INDEX_FILE, shards.index({name: [entry.shape for entry in entries] for name, entries in held})
        )
    return names
