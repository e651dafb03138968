"""Shows a run while it goes: one live line a running stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Protocol, Self

import click

from ..events import Event, NodeFinished, NodeStarted, Note
from ..units import show_bytes, show_seconds
from .streams import silence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

NAME_WIDTH = 24
SYMBOLS = {"hit": "cached", "built": "built", "failed": "FAILED", "blocked": "blocked"}
COLOURS = {"hit": "cyan", "built": "green", "failed": "red", "blocked": "yellow"}


@contextlib.contextmanager
def counter(what: str) -> Iterator[Callable[[int, int], None]]:
    """Counts ``what`` on one line of standard error when that is a terminal, and clears it at the end.

    Yields ``count(done, total)``, to be called before each one.
    """
    is_terminal = sys.stderr.isatty()

    def count(done: int, total: int) -> None:
        if is_terminal:
            click.echo(f"\r{what} {min(done + 1, total)} of {total} ", nl=False, err=True)

    try:
        yield count
    finally:
        if is_terminal:
            click.echo("\r\033[K", nl=False, err=True)


class View(Protocol):
    """Takes events; used as a context manager around a run."""

    def __call__(self, event: Event) -> None:
        """Shows one event."""

    def __enter__(self) -> Self:
        """Begins to draw."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the terminal as it was."""


def view() -> View:
    """The view that suits standard error: a live one on a terminal that can move its cursor."""
    if not sys.stderr.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return PlainView()
    from .live import LiveView

    return LiveView()


def finished_line(event: NodeFinished) -> str:
    """What a finished node is remembered by: state, name, seconds and memory, or the reason."""
    label = click.style(f"{SYMBOLS[event.state]:>7}", fg=COLOURS[event.state])
    if event.state == "built":
        cost = f"{show_seconds(event.seconds):>10}  {show_bytes(event.max_rss_bytes):>9}"
        return f"{label}  {event.node:<{NAME_WIDTH}} {cost}"
    return f"{label}  {event.node:<{NAME_WIDTH}} {event.reason}"


def note_line(event: Note) -> str:
    """A stage's remark under its name."""
    return f"{'note':>7}  {event.node:<{NAME_WIDTH}} {event.text}"


class PlainView:
    """One line when a node starts and one when it ends; for logs and pipes."""

    def __call__(self, event: Event) -> None:
        """Prints the event's line, if it has one."""
        if isinstance(event, NodeStarted):
            self._tell(f"{'running':>7}  {event.node:<{NAME_WIDTH}} {event.stage}")
        elif isinstance(event, Note):
            self._tell(note_line(event))
        elif isinstance(event, NodeFinished):
            self._tell(finished_line(event))

    def _tell(self, line: str) -> None:
        try:
            click.echo(line, err=True)
        except BrokenPipeError:
            silence(sys.stderr)  # nobody looks on any more; the work goes on

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
