"""One node in one past run: what it took, against what had been predicted; a row of `ingot history`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..artifacts.store import Store
    from .past import PastNode, PastRun

HIT, BUILT = "hit", "built"


@dataclass(frozen=True)
class Execution:
    """How a node ended in a run. time: when (ISO 8601, UTC).

    seconds, cpu_seconds, max_rss_bytes: what its output cost, which for a hit another run has spent.
    expected_seconds, expected_rss_bytes: what the plan predicted, of a node that had to run.  runs: how many
    past runs that was taken from, 0 for an estimate.
    """

    run: str
    node: str
    time: str
    state: str
    reason: str
    key: str | None
    seconds: float | None = None
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None
    expected_seconds: float | None = None
    expected_rss_bytes: int | None = None
    runs: int | None = None

    def to_json(self) -> dict[str, object]:
        """The row as plain values."""
        return asdict(self)


def of_run(past: PastRun, store: Store) -> list[Execution]:
    """The nodes of a run, in the order in which they ended."""
    return [_execution(past, node, store) for node in past.nodes.values()]


def of_node(runs: Iterable[PastRun], name: str, store: Store) -> Iterator[Execution]:
    """A node in every run in which it came to an end, in the order of the runs."""
    for past in runs:
        node = past.node(name)
        if node is not None:
            yield _execution(past, node, store)


def ratios(rows: Iterable[Execution]) -> list[float]:
    """Actual / predicted seconds of what was built, where past runs predicted it, in order of size."""
    return sorted(
        row.seconds / row.expected_seconds
        for row in rows
        if row.state == BUILT and row.runs and row.seconds and row.expected_seconds
    )


def _execution(past: PastRun, node: PastNode, store: Store) -> Execution:
    event = node.event
    costs: Mapping[str, object] = vars(event)
    if event.state == HIT:
        action = store.read_action(event.key) if event.key else None
        costs = action.observed if action is not None else {}
    expected = past.expected.get(event.node, {}) if event.state != HIT else {}
    return Execution(
        past.run,
        event.node,
        node.time,
        event.state,
        event.reason,
        event.key,
        _number(costs.get("seconds")),
        _number(costs.get("cpu_seconds")),
        _bytes(costs.get("max_rss_bytes")),
        _number(expected.get("seconds")),
        _bytes(expected.get("max_rss_bytes")),
        expected.get("runs"),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value else None


def _bytes(value: object) -> int | None:
    return value if isinstance(value, int) and value else None
