"""Tensors to files of safetensors: into one, or split as transformers splits them, with an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....artifacts.tensor_header import DTYPE_BITS, TensorShape
from ....artifacts.tensors import SafetensorsWriter
from ...model.checkpoint import INDEX_FILE, WEIGHTS_FILE

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
    """The entries of each file: in order, as many as fit; those of one unit stay together.

    A unit that is larger than a file may be has one of its own.
    """
    files: list[list[Entry]] = [[]]
    size = 0
    for unit in units:
        added = sum(entry.shape.nbytes for entry in unit)
        if files[-1] and size + added > most_bytes:
            files.append([])
            size = 0
        files[-1] += unit
        size += added
    return files


def write(
    files: Sequence[Sequence[Entry]], output: Outbox, advance: Callable[[int, str], None]
) -> tuple[str, ...]:
    """Writes the files, tensor by tensor, and the index where there are several; gives their names.

    Tensors are ordered by falling element size, which keeps all of them aligned.
    advance: told of each tensor's bytes and name.
    """
    count = len(files)
    names = tuple(
        WEIGHTS_FILE if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
        for number in range(1, count + 1)
    )
    for name, entries in zip(names, files, strict=True):
        ordered = sorted(entries, key=lambda entry: -DTYPE_BITS[entry.shape.dtype])
        with (
            output.create(name) as stream,
            SafetensorsWriter(stream, [entry.shape for entry in ordered]) as writer,
        ):
            for entry in ordered:
                writer.write(entry.shape.name, entry.make())
                advance(entry.shape.nbytes, entry.shape.name)
    if count > 1:
        placed = {
            entry.shape.name: name for name, entries in zip(names, files, strict=True) for entry in entries
        }
        total = sum(entry.shape.nbytes for entries in files for entry in entries)
        output.write_json(INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": placed})
    return names
