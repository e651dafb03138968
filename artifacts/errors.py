"""Every error a person can meet, as one tree; the command line prints what, where and fix, nothing else.

IngotError                      root; carries ``what``, ``where``, ``fix`` and the exit code
├── InputError        exit 2    something a person gave is wrong
│   ├── RecipeError             a recipe, profile, option or parameter
│   ├── IntakeError             a checkpoint was refused before anything heavy was imported
│   └── DataError               a text or data file
├── RequirementError  exit 2    a library, device, memory or disk space is missing
├── StoreError        exit 2    the store cannot be read or written
│   └── CorruptError            stored bytes are not the bytes that were recorded
├── StageError        exit 4    a stage failed while it ran
└── Interrupted       exit 130  the person stopped the run
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class IngotError(Exception):
    """Root of all errors that are reported to a person without a traceback.

    what: what is wrong, with the offending value.  where: file, key or line.  fix: what to do.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.what} ({self.where})" if self.where else self.what
        return f"{text}: {self.fix}" if self.fix else text


class InputError(IngotError):
    """Something a person gave is wrong."""


class RecipeError(InputError):
    """A recipe, profile, option or parameter is wrong."""


class IntakeError(InputError):
    """A checkpoint was refused before anything heavy was imported."""


class DataError(InputError):
    """A text or data file cannot be used."""


class RequirementError(IngotError):
    """A library, a device, memory or disk space is missing."""


class StoreError(IngotError):
    """The store cannot be read or written."""


class CorruptError(StoreError):
    """Stored bytes are not the bytes that were recorded."""


class StageError(IngotError):
    """A stage failed while it ran."""

    exit_code = 4


class Interrupted(IngotError):  # noqa: N818 - named for what happened, not for a fault
    """The person stopped the run."""

    exit_code = 130


KINDS: dict[str, type[IngotError]] = {
    kind.__name__: kind
    for kind in (
        IngotError, InputError, RecipeError, IntakeError, DataError,
        RequirementError, StoreError, CorruptError, StageError, Interrupted,
    )
}  # fmt: skip


def to_json(error: IngotError) -> dict[str, str | None]:
    """The error as plain values, for a result file that crosses a process boundary."""
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}


def from_json(value: dict[str, str | None]) -> IngotError:
    """The inverse of :func:`to_json`; an unknown kind becomes a StageError."""
    kind = KINDS.get(value.get("kind") or "", StageError)
    return kind(value.get("what") or "unknown error", where=value.get("where"), fix=value.get("fix"))


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that looks most like ``name``, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return matches[0] if matches else None
