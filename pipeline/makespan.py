"""How long nodes take together, when as many run beside one another as there are cores."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


def makespan(
    seconds: Mapping[str, float], inputs: Mapping[str, Sequence[str]], alone: Collection[str], cores: int
) -> float:
    """The seconds from the first node to the last, started as the scheduler starts them.

    seconds: what each node takes, in an order in which they can run.  inputs: node → what it takes; what has
    no seconds is there already.  alone: nodes beside which nothing runs, and which wait for the others.
    """
    waiting, done, now = list(seconds), set[str](), 0.0
    running: list[tuple[float, str]] = []
    while waiting or running:
        ready = [name for name in waiting if all(each in done for each in inputs[name] if each in seconds)]
        together = [name for name in ready if name not in alone][: max(0, cores - len(running))]
        if any(name in alone for _, name in running):
            together = []
        if not running and not together:
            together = ready[:1]
        for name in together:
            waiting.remove(name)
            heapq.heappush(running, (now + seconds[name], name))
        now, name = heapq.heappop(running)
        done.add(name)
    return now
