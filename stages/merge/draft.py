"""A file of merged tensors in the making: a merge that was killed goes on behind its last whole tensor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Self

from ...artifacts.faults import fault
from ...artifacts.files import storage
from ...artifacts.hashing import KeptFile
from ...artifacts.tensor_writer import METADATA, header_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    from ...artifacts.tensor_header import TensorShape


class Draft:
    """A safetensors file in a job's directory, filled in the order of its layout; a context manager.

    fingerprint: of everything that decides what is in it; what another left there counts for nothing.
    finished: how many tensors are whole already.  Beside the file lies a record: a line with the fingerprint,
    and one for the header and each tensor with the file's length and SHA-256 up to there.  Both stay where an
    exception leaves them.
    """

    def __init__(self, directory: Path, name: str, layout: Sequence[TensorShape], fingerprint: str) -> None:
        record = directory / f"{name}.jsonl"
        marks = _marks(record, fingerprint)
        self.name = name
        self.file = KeptFile(directory / name, marks)
        self._layout = layout
        kept = [mark for mark in marks if mark[0] <= self.file.kept]
        self.finished = max(0, len(kept) - 1)
        with storage(record):
            self._record = record.open("w", encoding="utf-8", buffering=1)
            self._record.writelines(f"{json.dumps(line)}\n" for line in (fingerprint, *kept))
        if not kept:
            self.file.write(header_bytes(tuple(layout), METADATA))
            self._mark()

    def write(self, parts: Iterable[memoryview]) -> None:
        """The next tensor's bytes, in parts, each let go of before the next is asked for.

        Raises ValueError when their lengths do not add up to the tensor's.
        """
        shape = self._layout[self.finished]
        start = self.file.tell()
        for part in parts:
            self.file.write(part)
        if self.file.tell() - start != shape.nbytes:
            raise ValueError(f"{self.file.tell() - start} bytes were made of {shape.nbytes} of {shape.name}")
        fault("merge.written")
        self._mark()
        self.finished += 1
        fault("merge.marked")

    def _mark(self) -> None:
        with storage(self.file.path):
            self._record.write(f"{json.dumps(self.file.mark())}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the disk; raises ValueError when a tensor was not written."""
        self._record.close()
        if kind is None and self.finished < len(self._layout):
            kind = ValueError
            error = ValueError(f"{self._layout[self.finished].name} was laid out but not written")
            self.file.__exit__(kind, error, trace)
            raise error
        self.file.__exit__(kind, error, trace)
        fault("merge.closed")


def _marks(record: Path, fingerprint: str) -> list[tuple[int, str]]:
    """The marks of a record up to its first line that is none, which a kill may have torn."""
    try:
        lines = record.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    marks: list[tuple[int, str]] = []
    for number, line in enumerate(lines):
        try:
            value = json.loads(line)
            if number == 0:
                if value != fingerprint:
                    return []
                continue
            size, digest = value
        except (TypeError, ValueError):
            break
        if not isinstance(size, int) or (marks and size < marks[-1][0]):
            break
        marks.append((size, str(digest)))
    return marks
