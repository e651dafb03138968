"""Why a node runs: the parts of its key that changed since the last time a node of its name was built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..artifacts.errors import InputError
from ..stages import base
from .history import History, Use
from .key_changes import Change, changes, told
from .past import past_run
from .sources import module_digests

if TYPE_CHECKING:
    from ..artifacts.store import Store
    from .plan import Decision, Plan


@dataclass(frozen=True)
class KeyDiff:
    """What changed for a node. old: what it is compared with; None: no node of its name was built.

    sources: modules whose text changed, where the run that used the old key tells of them.  causes: why
    inputs changed: the nodes above it that changed by themselves, the first one first.
    """

    node: str
    old: Use | None
    changes: tuple[Change, ...]
    sources: tuple[str, ...] = ()
    causes: tuple[KeyDiff, ...] = ()

    def __str__(self) -> str:
        if self.old is None:
            return "not built before"
        return told(self.changes)


def explain(plan: Plan, node: str, store: Store, against: str | None = None) -> KeyDiff:
    """What made (or makes) a node run: its key against the one that the newest run with another one used.

    against: the run to compare with in place of that.  A node whose name was never built is compared with
    the action of its stage that is most like it; one whose output got lost, with its own record. Inputs that
    are not made yet are listed as not known. Raises RecipeError for a name that is not in the plan's graph,
    InputError for a run in which the node had no output.
    """
    decision = plan.decisions[plan.graph.node(node).name]
    history = History(store)
    if against is not None:
        old: Use | None = _in_run(decision.node, store, against)
    else:
        old = _lost(decision, store) or history.last(decision.node, but_key=decision.key)
        old = old or _likest(plan, decision, history)
    return _compared(plan, decision, old, history, set())


def _in_run(node: str, store: Store, run: str) -> Use:
    """The key that a node had in a run."""
    ended = past_run(store, run).node(node)
    action = store.read_action(ended.key) if ended is not None and ended.key is not None else None
    if ended is None or action is None:
        fix = f"`ingot history {node}` lists the runs that had one"
        raise InputError(f"the run {run} left no output of {node}", fix=fix)
    return Use(action, run, ended.time)


def _lost(decision: Decision, store: Store) -> Use | None:
    """The record of a node that was built with this very key, and has to be again."""
    has_key = decision.artifact is None and decision.key is not None
    action = store.read_action(str(decision.key)) if has_key else None
    return Use(action) if action is not None else None


def _likest(plan: Plan, decision: Decision, history: History) -> Use | None:
    """Of the actions of its stage the one whose key differs in the fewest parts; None for what is no work."""
    made_of = decision.preimage
    if decision.artifact is not None or made_of is None:
        return None
    known = history.of_stage(plan.graph.nodes[decision.node].stage)
    found = min(known, key=lambda action: len(changes(action.preimage, made_of)), default=None)
    return Use(found) if found is not None else None


def _compared(plan: Plan, decision: Decision, old: Use | None, history: History, seen: set[str]) -> KeyDiff:
    """The difference between ``old`` and what a node's key is made of now, with what lies behind it.

    seen: nodes that stand in the answer already.
    """
    if old is None or decision.preimage is None:
        return KeyDiff(decision.node, old, ())
    found = changes(old.action.preimage, decision.preimage)
    causes: list[KeyDiff] = []
    for change in found:
        kind, _, name = change.part.partition(".")
        source = plan.graph.nodes[decision.node].inputs.get(name) if kind == "inputs" else None
        if source is None or source in seen:
            continue
        seen.add(source)
        maker = history.maker(str(change.old))
        above = _compared(plan, plan.decisions[source], Use(maker) if maker else None, history, seen)
        causes += above.causes
        if any(not each.part.startswith("inputs.") for each in above.changes) or not above.changes:
            causes.append(replace(above, causes=()))
    sources = _changed_modules(plan, decision.node, old, history) if _has(found, "source") else ()
    return KeyDiff(decision.node, old, found, sources, tuple(causes))


def _has(found: Iterable[Change], part: str) -> bool:
    return any(change.part == part for change in found)


def _changed_modules(plan: Plan, node: str, old: Use, history: History) -> tuple[str, ...]:
    """The modules of a node's stage whose text is another one than in a run that used the old key."""
    run = old.run or str(old.action.observed.get("run"))
    then = next((past.plan.get("sources") for past in history.runs() if past.run == run), None)
    if not isinstance(then, Mapping):
        return ()
    now = module_digests([base.get(plan.graph.nodes[node].stage).module])
    return tuple(name for name, digest in now.items() if then.get(name) != digest)
