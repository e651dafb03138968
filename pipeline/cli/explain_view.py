"""What changed for a node as text: every part of its key, old and new, who used the old one, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..key_changes import short
from ..past import show_time
from ..units import show_seconds
from .plan_view import COLOURS, shown_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..explain import KeyDiff
    from ..history import Use
    from ..key_changes import Change
    from ..plan import Plan


def show_diff(diff: KeyDiff, plan: Plan) -> str:
    """The node's decision, the key it is compared with, the parts that changed, and what lies behind them."""
    decision = plan.decisions[diff.node]
    state = click.style(str(decision.state), fg=COLOURS[decision.state])
    lines = [f"{click.style(diff.node, bold=True)}: {state} — {decision.reason}"]
    if diff.old is None:
        return "\n".join([*lines, "no other build of a node of this name is in the store"])
    if diff.old.action.node != diff.node:
        likest = diff.old.action.node
        lines.append(f"no node of this name was built before; of its stage, {likest} is most like it")
    lines += _compared_with(diff.old)
    lines += ["", *_changes(diff, plan)]
    if diff.causes:
        lines += ["", "which comes from"]
        lines += [f"  {line}" for cause in diff.causes for line in _cause(cause, plan)]
    return "\n".join(lines)


def _compared_with(old: Use) -> list[str]:
    """The old key, and the runs that made its output and took it."""
    observed: Mapping[str, Any] = old.action.observed
    took = f", in {show_seconds(observed['seconds'])}" if "seconds" in observed else ""
    lines = [f"compared with the key {short(old.action.key)}"]
    if "finished" in observed:
        lines.append(f"  built     {show_time(observed['finished'])} by the run {observed.get('run')}{took}")
    if old.run is not None and old.run != observed.get("run"):
        lines.append(f"  last used {show_time(old.time)} by the run {old.run}")
    return lines


def _changes(diff: KeyDiff, plan: Plan) -> Iterator[str]:
    if not diff.changes:
        is_known = plan.decisions[diff.node].preimage is not None
        yield "nothing in its key changed" if is_known else "its key is not known while that stands"
    for change in diff.changes:
        yield f"{change.part}{_remark(change, diff, plan)}"
        yield f"  - {_side(change.old)}"
        yield f"  + {'not known yet' if change.is_pending else _side(change.new)}"
        if change.part == "source":
            yield from (f"    changed: {name}" for name in diff.sources)


def _remark(change: Change, diff: KeyDiff, plan: Plan) -> str:
    """Where an input comes from."""
    kind, _, name = change.part.partition(".")
    source = plan.graph.nodes[diff.node].inputs.get(name) if kind == "inputs" else None
    return click.style(f"  from {source}", dim=True) if source else ""


def _cause(cause: KeyDiff, plan: Plan) -> Iterator[str]:
    """A node above, in a line of its own, and what changed there by itself."""
    own = [change for change in cause.changes if not change.part.startswith("inputs.")]
    if own:
        yield f"{cause.node}: {', '.join(str(change) for change in own)}"
        yield from (f"  changed: {name}" for name in cause.sources)
    elif cause.old is None:
        yield f"{cause.node}: no record tells what its output was made of"
    elif plan.decisions[cause.node].preimage is None:
        yield f"{cause.node}: {plan.decisions[cause.node].reason}"
    else:
        yield f"{cause.node}: nothing changed, but another output came out"


def _side(value: object) -> str:
    return short(value) if isinstance(value, str) else shown_value(value)


def diff_json(diff: KeyDiff, plan: Plan) -> dict[str, object]:
    """The same as plain values, with digests in full."""
    decision = plan.decisions[diff.node]
    return {
        "node": diff.node,
        "state": decision.state,
        "reason": decision.reason,
        "key": decision.key,
        "old": _use_json(diff.old),
        **_changes_json(diff),
        "causes": [{"node": cause.node, **_changes_json(cause)} for cause in diff.causes],
    }


def _changes_json(diff: KeyDiff) -> dict[str, object]:
    changes = [{"part": each.part, "old": each.old, "new": each.new} for each in diff.changes]
    return {"changes": changes, "sources": list(diff.sources)}


def _use_json(old: Use | None) -> dict[str, object] | None:
    if old is None:
        return None
    observed = old.action.observed
    built = {name: observed.get(name) for name in ("run", "finished", "seconds")}
    used = {"run": old.run, "finished": old.time} if old.run is not None else None
    return {"node": old.action.node, "key": old.action.key, "built": built, "used": used}
