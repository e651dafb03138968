"""How the tensors of a checkpoint are split into files, and what those are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .checkpoint import SAFETENSORS, WEIGHTS_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ...artifacts.tensor_header import TensorShape

T = TypeVar("T")


def split(
    units: Iterable[Sequence[T]], shape_of: Callable[[T], TensorShape], most_bytes: int | None
) -> list[list[T]]:
    """The entries of each file: in order, as many as fit; those of one unit stay together.

    A unit that is larger than a file may be has one of its own.  most_bytes: of a file; None: there is one.
    """
    files: list[list[T]] = [[]]
    size = 0
    for unit in units:
        added = sum(shape_of(entry).nbytes for entry in unit)
        if files[-1] and most_bytes is not None and size + added > most_bytes:
            files.append([])
            size = 0
        files[-1] += unit
        size += added
    return files


def file_names(count: int) -> tuple[str, ...]:
    """The names of that many files, as transformers calls them."""
    if count == 1:
        return (WEIGHTS_FILE,)
    return tuple(f"model-{number:05}-of-{count:05}{SAFETENSORS.suffix}" for number in range(1, count + 1))


def index(files: Mapping[str, Sequence[TensorShape]]) -> dict[str, object]:
    """What the index says of files and the tensors in each."""
    total = sum(each.nbytes for held in files.values() for each in held)
    placed = {each.name: name for name, held in files.items() for each in held}
    return {"metadata": {"total_size": total}, "weight_map": placed}
