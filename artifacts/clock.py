"""The store's clock: the system's, except that it never goes back.

Clocks do go back: set by hand or by a time server, or in a virtual machine that was restored. Of runs,
records and uses the later must count as the later all the same, so a store remembers the last time it gave,
and the next is the system's or one step after that one, whichever is later (a hybrid logical clock: Kulkarni
et al., Logical Physical Clocks, 2014). Which of two processes that ask at once comes first is open.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from . import faults

if TYPE_CHECKING:
    from pathlib import Path

FILE = "clock"


def store_time_ns(root: Path) -> int:
    """A time later than any given before for the store at ``root``: nanoseconds since 1970, UTC."""
    memory = root / FILE
    with contextlib.suppress(OSError):  # a read-only store cannot remember, and nothing is written there
        descriptor = os.open(memory, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            time_ns = max(faults.time_ns(), os.fstat(descriptor).st_mtime_ns + 1)
            os.utime(descriptor, ns=(time_ns, time_ns))
        finally:
            os.close(descriptor)
        return time_ns
    return faults.time_ns()


def mark(path: Path, time_ns: int) -> None:
    """Makes ``time_ns`` the time of a file: its mtime tells what came after what."""
    os.utime(path, ns=(time_ns, time_ns))
