"""The fault harness: tests say in INGOT_FAULT where a process is to die, or which call of the disk fails.

INGOT_FAULT is a list, separated by commas, of ``place`` or ``place=effect`` or ``place=effect@n``:

- a place is one of :data:`LABELS`, a step that is passed, or one of :data:`OPERATIONS`, a call of the disk;
- an effect is ``kill`` (the default: SIGKILL leaves no chance to clean up, so what the next process finds is
  what a crash would have left), ``eio``, ``enospc``, and for ``write`` also ``short`` (half of the bytes are
  written, which the caller has to notice) and ``torn`` (half are written, then the process is killed);
- the place ``clock`` has one effect, ``back``: from that reading on, the clock stands a year earlier;
- n counts passes of the place in this process from 1, the default.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "INGOT_FAULT"

PUBLISH = (
    "publish.locked",
    "publish.written",
    "publish.hashed",
    "publish.recorded",
    "publish.synced",
    "publish.sealed",
    "publish.renamed",
    "publish.parent-synced",
    "publish.remembered",
)
RECORD = ("record.written", "record.renamed", "record.synced")
COLLECT = ("gc.forgotten", "gc.trashed", "gc.tidied", "gc.removed")
QUARANTINE = ("quarantine.moved", "quarantine.noted")
JOURNAL = ("journal.created", "journal.planned", "journal.written", "journal.synced")
DELIVERY = ("delivery.written", "delivery.set-aside", "delivery.renamed")
MERGE = ("merge.written", "merge.marked", "merge.closed")
LABELS = (*PUBLISH, *RECORD, *COLLECT, *QUARANTINE, *JOURNAL, *DELIVERY, *MERGE)

WRITE, SYNC, CLOCK = "write", "fsync", "clock"
OPERATIONS = (WRITE, SYNC, CLOCK)
KILL, SHORT, TORN, BACK = "kill", "short", "torn", "back"
YEAR_NS = 365 * 24 * 3600 * 10**9
ERRORS = {"eio": errno.EIO, "enospc": errno.ENOSPC}
EFFECTS = {WRITE: (KILL, *ERRORS, SHORT, TORN), CLOCK: (BACK,)}


@dataclass(frozen=True)
class Order:
    """One entry of the variable: at the nth pass of ``place`` do ``effect``."""

    place: str
    effect: str
    nth: int

    def is_due(self, place: str, nth: int) -> bool:
        """Whether it is for this pass; a clock that went back stays there."""
        return self.place == place and (nth == self.nth or (place == CLOCK and nth > self.nth))


class _Orders:
    """The orders of the variable, and how often each place was passed since it was set."""

    def __init__(self) -> None:
        self._text = ""
        self._orders: tuple[Order, ...] = ()
        self._passed: dict[str, int] = {}
        self._lock = threading.Lock()

    def effect(self, text: str, place: str) -> str | None:
        """What is to happen at this pass of ``place``."""
        with self._lock:
            if text != self._text:
                self._text, self._orders, self._passed = text, parse(text), {}
            self._passed[place] = nth = self._passed.get(place, 0) + 1
            return next((o.effect for o in self._orders if o.is_due(place, nth)), None)


_ORDERS = _Orders()


def parse(text: str) -> tuple[Order, ...]:
    """The orders in a variable's text; raises ValueError for a place or an effect that does not exist."""
    orders = []
    for entry in text.split(","):
        place, _, rest = entry.strip().partition("=")
        effect, _, count = rest.partition("@")
        effect = effect or KILL
        known = EFFECTS.get(place, (KILL, *ERRORS))
        if place not in (*LABELS, *OPERATIONS) or effect not in known or not (count or "1").isdigit():
            raise ValueError(f"{VARIABLE}: {entry!r} is no place, or no effect that can be had there")
        orders.append(Order(place, effect, int(count or 1)))
    return tuple(orders)


def fault(label: str) -> None:
    """A step that is passed; a label is one of :data:`LABELS`."""
    _happen(_due(label))


def write(descriptor: int, data: memoryview) -> int:
    """os.write, unless it is to fail; how many bytes were written."""
    effect = _due(WRITE)
    if effect in (SHORT, TORN):
        count = os.write(descriptor, data[: max(1, len(data) // 2)])
        _happen(KILL if effect == TORN else None)
        return count
    _happen(effect)
    return os.write(descriptor, data)


def sync(descriptor: int, call: Callable[[int], None] | None = None) -> None:
    """os.fsync, or another ``call`` that waits for the disk, unless it is to fail."""
    _happen(_due(SYNC))
    (call or os.fsync)(descriptor)


def time_ns() -> int:
    """time.time_ns, unless the clock is to go back: nanoseconds since 1970, UTC."""
    return time.time_ns() - (YEAR_NS if _due(CLOCK) == BACK else 0)


def _due(place: str) -> str | None:
    text = os.environ.get(VARIABLE)
    return _ORDERS.effect(text, place) if text else None


def _happen(effect: str | None) -> None:
    if effect == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif effect is not None:
        raise OSError(ERRORS[effect], os.strerror(ERRORS[effect]))
