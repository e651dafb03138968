"""The live view of a run: what is finished scrolls up; below it, one line a running node, cut to fit."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from ..events import Event, Heartbeat, NodeFinished, NodeStarted, Note, Progress
from ..units import show_bytes, show_count, significant
from .progress import NAME_WIDTH, finished_line, note_line

if TYPE_CHECKING:
    from types import TracebackType

    from rich.text import Text

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAMES_A_SECOND = 10
BAR_WIDTH = 20
GAP = "  "


@dataclass(frozen=True)
class Row:
    """A running node. started, measured: when it and its progress began, in seconds of the monotonic clock.

    done, total: how far it is, of ``what``; total 0 while that is not known.  first: what was done at
    ``measured``.
    """

    node: str
    what: str
    started: float
    done: int = 0
    total: int = 0
    first: int = 0
    measured: float = 0.0
    rss_bytes: int = 0

    def after(self, event: Progress, now: float) -> Row:
        """The row once ``event`` is known; work that is counted anew is timed from its own beginning."""
        row = replace(self, what=event.what, total=event.total, done=event.done)
        if event.total != self.total or event.done < self.done:
            return replace(row, first=event.done, measured=now)
        return row


def running_line(row: Row, now: float, width: int) -> str:
    """What is known of a running node in at most ``width`` characters; what matters least is left out."""
    parts = {name: text for name, text in _parts(row, now).items() if text}
    frame = FRAMES[int(now * FRAMES_A_SECOND) % len(FRAMES)]
    name = f"{frame} {row.node:<{NAME_WIDTH}}"
    if len(name) > width // 2:
        name = f"{frame} {row.node}"
    room = width - len(name)
    kept = set()
    for part in ("share", "left", "memory", "count", "elapsed", "bar", "rate"):
        if part in parts and len(GAP) + len(parts[part]) <= room:
            room -= len(GAP) + len(parts[part])
            kept.add(part)
    return GAP.join([name, *(text for part, text in parts.items() if part in kept)])[:width]


def _parts(row: Row, now: float) -> dict[str, str]:
    """The parts of a line in the order in which they are written; empty where there is nothing to say."""
    done, seconds = row.done - row.first, now - row.measured
    share = min(1.0, row.done / row.total) if row.total else 0.0
    full = round(share * BAR_WIDTH)
    is_known = bool(row.total and done and seconds > 0)
    return {
        "bar": "━" * full + "╌" * (BAR_WIDTH - full) if row.total else "",
        "share": f"{share:4.0%}" if row.total else "",
        "count": f"{show_count(row.done)}/{show_count(row.total)} {row.what}" if row.total else row.what,
        "rate": f"{significant(done / seconds)}/s" if is_known else "",
        "memory": show_bytes(row.rss_bytes) if row.rss_bytes else "",
        "elapsed": _clock(now - row.started),
        "left": f"{_clock((row.total - row.done) * seconds / done)} left" if is_known else "",
    }


def _clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: `0:07`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class LiveView:
    """Draws running nodes in place and lets what is finished scroll by."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._rows: dict[str, Row] = {}
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(
            console=self._console,
            get_renderable=self._drawing,
            refresh_per_second=FRAMES_A_SECOND,
            transient=True,
            redirect_stdout=False,
        )

    def __call__(self, event: Event) -> None:
        """Updates the line of the event's node, or prints what stays."""
        now = time.monotonic()
        if isinstance(event, NodeStarted):
            self._rows[event.node] = Row(event.node, event.stage, started=now)
        elif isinstance(event, Progress) and event.node in self._rows:
            self._rows[event.node] = self._rows[event.node].after(event, now)
        elif isinstance(event, Heartbeat) and event.node in self._rows:
            self._rows[event.node] = replace(self._rows[event.node], rss_bytes=event.rss_bytes)
        elif isinstance(event, Note):
            self._print(note_line(event))
        elif isinstance(event, NodeFinished):
            self._rows.pop(event.node, None)
            self._print(finished_line(event))

    def _drawing(self) -> Text:
        from rich.text import Text

        # One column stays free: a line that fills the last one may already count as two.
        now, width = time.monotonic(), self._console.width - 1
        lines = [running_line(row, now, width) for row in list(self._rows.values())]
        return Text("\n".join(lines), no_wrap=True, overflow="crop")

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text.from_ansi(line))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
