"""What a store remembers of past executions: its action records and the runs that used them, newest first."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..artifacts.manifest import Action
from ..artifacts.store import Store
from .past import past_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .past import PastRun

# Records and runs beyond these, newest first, are older than what "the last time" can mean to a person.
MOST_RECORDS = 5000
MOST_RUNS = 50

Groups = dict[str, list[Action]]


@dataclass(frozen=True)
class Use:
    """An action, and the newest run that took its output, found or made, and when (ISO 8601, UTC).

    run: None where no run that the store still has tells of it.
    """

    action: Action
    run: str | None = None
    time: str = ""


@dataclass(frozen=True)
class History:
    """The action records and the runs of a store, newest first; read once, when they are first asked."""

    store: Store

    def last(self, node: str, but_key: str | None = None) -> Use | None:
        """The newest use of a node of that name with another key than ``but_key``.

        Runs say what was used, also what they found; where none of them tells, the newest record counts.
        """
        for past in self.runs():
            ended = past.nodes.get(node)
            if ended is not None and ended.key not in (None, but_key):
                action = self.store.read_action(str(ended.key))
                if action is not None:
                    return Use(action, past.run, ended.time)
        records = (action for action in self._by_node.get(node, ()) if action.key != but_key)
        return next((Use(action) for action in records), None)

    def runs(self) -> Iterator[PastRun]:
        """The newest runs, each read when its turn comes first."""
        return map(self._read, self._runs)

    def of_stage(self, stage: str) -> tuple[Action, ...]:
        """The actions of every node of a stage."""
        return tuple(self._by_stage.get(stage, ()))

    def maker(self, digest: str) -> Action | None:
        """The newest action whose output is the artifact called ``digest``."""
        return next(iter(self._by_output.get(digest, ())), None)

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """Every readable record, as many as "the last time" can mean."""
        found = (self.store.read_action(key) for key in self.store.newest_keys()[:MOST_RECORDS])
        return tuple(action for action in found if action is not None)

    @cached_property
    def _runs(self) -> list[str]:
        return self.store.runs()[:MOST_RUNS]

    @cached_property
    def _read(self) -> Callable[[str], PastRun]:
        return functools.cache(functools.partial(past_run, self.store))

    @cached_property
    def _by_node(self) -> Mapping[str, list[Action]]:
        return _grouped(self.actions, lambda action: action.node)

    @cached_property
    def _by_stage(self) -> Mapping[str, list[Action]]:
        return _grouped(self.actions, lambda action: str(action.preimage.get("stage")))

    @cached_property
    def _by_output(self) -> Mapping[str, list[Action]]:
        return _grouped(self.actions, lambda action: action.output)


def _grouped(actions: tuple[Action, ...], key: Callable[[Action], str]) -> Groups:
    groups: Groups = {}
    for action in actions:
        groups.setdefault(key(action), []).append(action)
    return groups
