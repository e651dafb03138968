"""Shows a run while it goes: one live line a running stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Protocol, Self

import click

from ..events import (
    Event,
    Heartbeat,
    NodeFinished,
    NodeStarted,
    Note,
    Progress,
)
from ..units import show_bytes, show_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

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
    """The view that suits standard error."""
    return LiveView() if sys.stderr.isatty() else PlainView()


def finished_line(event: NodeFinished) -> str:
    """What a finished node is remembered by: state, name, seconds and memory, or the reason."""
    label = click.style(f"{SYMBOLS[event.state]:>7}", fg=COLOURS[event.state])
    if event.state == "built":
        cost = f"{show_seconds(event.seconds):>10}  {show_bytes(event.max_rss_bytes):>9}"
        return f"{label}  {event.node:<24} {cost}"
    return f"{label}  {event.node:<24} {event.reason}"


class PlainView:
    """One line when a node starts and one when it ends; for logs and pipes."""

    def __call__(self, event: Event) -> None:
        """Prints the event's line, if it has one."""
        if isinstance(event, NodeStarted):
            click.echo(f"{'running':>7}  {event.node:<24} {event.stage}", err=True)
        elif isinstance(event, Note):
            click.echo(f"{'note':>7}  {event.node:<24} {event.text}", err=True)
        elif isinstance(event, NodeFinished):
            click.echo(finished_line(event), err=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class LiveView:
    """Finished nodes scroll up; below, a line a running node: its share, memory and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bars: Bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[node]:<24}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[memory]:>9}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[what]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Updates the line of the event's node."""
        if isinstance(event, NodeStarted):
            self._tasks[event.node] = self._bars.add_task(
                "", node=event.node, what=event.stage, memory="", total=None
            )
        elif isinstance(event, Progress) and event.node in self._tasks:
            what = event.what if len(event.what) <= 40 else f"…{event.what[-39:]}"
            self._bars.update(
                self._tasks[event.node], completed=event.done, total=event.total or None, what=what
            )
        elif isinstance(event, Heartbeat) and event.node in self._tasks:
            self._bars.update(self._tasks[event.node], memory=show_bytes(event.rss_bytes))
        elif isinstance(event, Note):
            self._print(f"{'note':>7}  {event.node:<24} {event.text}")
        elif isinstance(event, NodeFinished):
            if event.node in self._tasks:
                self._bars.remove_task(self._tasks.pop(event.node))
            self._print(finished_line(event))

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._bars.console.print(Text.from_ansi(line))

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
