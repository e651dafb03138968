"""Where jobs run: three methods that a pool of processes, or of machines, has to offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..artifacts.errors import IngotError

if TYPE_CHECKING:
    from .events import Emit
    from .job import Job
    from .ledger import Capacity


@dataclass(frozen=True)
class Ended:
    """How a job's process ended, and what it spent.

    exit: its exit status, or the negative number of the signal that ended it.  error: why the executor ended
    it, when it did.  max_rss_bytes: the most that was seen from outside; what a worker says of itself is
    finer.
    """

    exit: int
    seconds: float
    cpu_seconds: float
    max_rss_bytes: int
    error: IngotError | None = None


class Running(Protocol):
    """A job that was submitted."""

    def wait(self) -> Ended:
        """Returns when its process, and every process it started, has ended."""
        ...


class Executor(Protocol):
    """Runs jobs; what they make is in the store and in `result.json`, never in these calls."""

    def capacity(self) -> Capacity:
        """The cores and memory that jobs may share."""
        ...

    def submit(self, job: Job, emit: Emit) -> Running:
        """Starts a job; ``emit`` gets its events, in another thread. Raises Interrupted once closed."""
        ...

    def close(self) -> None:
        """Ends every running job with all of its processes, and returns when they are gone."""
        ...
