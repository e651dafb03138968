"""A session over a program that takes one row at a time, as those of phones do, whatever runs it.

Padding never reaches the program: rows are run without it, and columns of padding come back as zeros. A
program that keeps keys and values has them by position, so a step goes on where the last one of its row
ended, and a past that is another one is computed again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ...artifacts.errors import InputError, StageError
from . import generation
from .base import Cache, Sampling, SessionInfo
from .onnx_about import CAUSAL
from .onnx_graph import check_ids, check_length

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float32]

IDS, MASK = "input_ids", "attention_mask"
PAD = 0


class RowProgram(Protocol):
    """A program for one row."""

    def run(self, ids: Ids, start: int) -> Floats:
        """Tokens [new], the first at position ``start`` → [new, width], float32.

        start is 0 where no past is kept.
        """


@dataclass
class _Slot:
    """A program and the tokens whose keys and values it holds."""

    program: RowProgram
    tokens: list[int] = field(default_factory=list)


class RowSession:
    """Follows :class:`ingot.targets.runtimes.base.Session`; calls are done one at a time.

    make: a program with a past of its own, one a row of a batch.  keeps_past: whether it has one at all.
    Raises InputError for ids outside the vocabulary, sequences longer than the context, and shapes that do
    not fit; StageError after :meth:`close`, and what the program raises.
    """

    def __init__(self, info: SessionInfo, make: Callable[[], RowProgram], *, keeps_past: bool) -> None:
        self._info = info
        self._make: Callable[[], RowProgram] | None = make
        self._keeps_past = keeps_past
        self._slots: list[_Slot] = []
        self._lock = threading.Lock()

    @property
    def info(self) -> SessionInfo:
        """What was opened."""
        return self._info

    def logits(self, input_ids: Ids, attention_mask: Ids | None = None) -> Floats:
        """See :meth:`Session.logits`."""
        mask = self._mask(input_ids, attention_mask, 0)
        return self._rows(input_ids, mask, 0)

    def step(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        past: Cache | None = None,
        logits_from: int = 0,
    ) -> tuple[Floats, Cache]:
        """See :meth:`Session.step`; raises InputError for an encoder, which has no cache."""
        import numpy as np

        if self._info.task != CAUSAL:
            raise InputError("an encoder has no past to step from", fix="use logits")
        length = past.length if past else 0
        mask = self._mask(input_ids, attention_mask, length)
        whole = np.concatenate([past.tensors[IDS], input_ids], axis=1) if past else input_ids
        result = self._rows(whole, mask, length)[:, logits_from:]
        return result, Cache({IDS: whole, MASK: mask}, whole.shape[1])

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """See :meth:`Session.generate`; a row ends before an end token, or when the context is full."""
        return generation.generate_by_steps(self.step, prompts, self._info, sampling, PAD)

    def close(self) -> None:
        """Frees the programs; the session cannot be used afterwards."""
        with self._lock:
            self._slots.clear()
            self._make = None

    def _mask(self, input_ids: Ids, attention_mask: Ids | None, length: int) -> Ids:
        import numpy as np

        check_ids(input_ids, self._info.vocabulary)
        batch, new = input_ids.shape
        mask = np.ones((batch, length + new), np.int64) if attention_mask is None else attention_mask
        if mask.shape != (batch, length + new):
            raise InputError(f"attention_mask has the shape {list(mask.shape)}, not {[batch, length + new]}")
        check_length(int(mask.sum(axis=1).max()), self._info.context)
        return mask

    def _rows(self, whole: Ids, mask: Ids, length: int) -> Floats:
        """[batch, all but the first ``length`` columns, width]."""
        import numpy as np

        found: Floats | None = None
        for row in range(len(whole)):
            kept = mask[row] == 1
            before = int(kept[:length].sum())
            tokens = whole[row][kept]
            if len(tokens) == before:
                continue
            result = self._row(row, tokens, before)
            if found is None:
                shape = (len(whole), whole.shape[1] - length, result.shape[-1])
                found = np.zeros(shape, np.float32)
            found[row, kept[length:]] = result
        if found is None:
            raise InputError("attention_mask masks every token")
        return found

    def _row(self, row: int, tokens: Ids, before: int) -> Floats:
        """What the program gives for the tokens from ``before`` on."""
        with self._lock:
            if self._make is None:
                raise StageError("the session is closed")
            while len(self._slots) <= row:
                self._slots.append(_Slot(self._make()))
            slot, row_tokens = self._slots[row], tokens.tolist()
            start = before if self._keeps_past and slot.tokens == row_tokens[:before] else 0
            # What fails half-way leaves a past that nobody can go on from.
            slot.tokens = []
            result = slot.program.run(tokens[start:], start)
            slot.tokens = row_tokens if self._keeps_past else []
        return result[before - start :]
