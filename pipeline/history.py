"""What a store remembers of past executions: its action records, by node and by stage, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..artifacts.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..artifacts.manifest import Action

# Records beyond these, newest first, are older than what "the last time" can mean to a person.
MOST_RECORDS = 5000

Groups = dict[str, list["Action"]]


@dataclass(frozen=True)
class History:
    """The action records of a store, newest first; read once, when it is first asked."""

    store: Store

    def last(self, node: str, but_key: str | None = None) -> Action | None:
        """The newest action of a node of that name whose key is not ``but_key``."""
        return next((action for action in self._by_node.get(node, ()) if action.key != but_key), None)

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
