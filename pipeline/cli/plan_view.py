"""A plan, its resolved parameters and a key's changes as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ...artifacts import schema
from ..plan import State
from ..units import show_bytes, show_seconds

if TYPE_CHECKING:
    from ..explain import KeyDiff
    from ..plan import Decision, Plan

COLOURS = {"hit": "cyan", "run": "green", "pending": "yellow", "blocked": "red"}
DEFAULT = "default"


def show_plan(plan: Plan) -> str:
    """One line a node (decision, stage, reason), what it cost last time, then notes and what is missing."""
    width = max(len(name) for name in plan.decisions)
    lines = []
    for name, decision in plan.decisions.items():
        node = plan.graph.nodes[name]
        state = click.style(f"{decision.state.upper():<8}", fg=COLOURS[decision.state])
        lines.append(f"{state} {name:<{width}}  {node.stage:<19} {decision.reason}{_expected(decision)}")
        lines.append(f"{'':<8} {'':<{width}}  {click.style(node.reason, dim=True)}")
    counts = ", ".join(f"{plan.count(state)} {state}" for state in State if plan.count(state))
    lines += ["", f"{counts}{_total(plan)}"]
    lines += [f"note: {note}" for note in plan.graph.notes]
    lines += [f"missing: {each.name} — {each.fix}" for each in plan.missing]
    lines += [f"short of: {each.name} — {each.fix}" for each in plan.short]
    return "\n".join(lines)


def _total(plan: Plan) -> str:
    """What the whole run will take, empty when nothing has to run."""
    expected = plan.expected.values()
    if not expected:
        return ""
    seconds, size = show_seconds(plan.expected_seconds), show_bytes(plan.output_bytes)
    memory = show_bytes(max(each.held_bytes for each in expected))
    unknown = sum(not each.runs for each in expected)
    basis = f"; {unknown} of {len(expected)} nodes are estimated, without a past run" if unknown else ""
    return f"; about {seconds}, {size} of disk, a node holds up to {memory}{basis}"


def _expected(decision: Decision) -> str:
    found = decision.expected
    if found is None:
        return ""
    return f" (about {show_seconds(found.seconds)}, {show_bytes(found.max_rss_bytes)}, {found.basis})"


def show_resolved(plan: Plan) -> str:
    """Every parameter of every node, and who gave its value."""
    lines = []
    for name, node in plan.graph.nodes.items():
        lines.append(click.style(f"{name}  ({node.stage})", bold=True))
        lines.extend(
            f"  {key}: {_value(value)}  {click.style(node.origins.get(key, DEFAULT), dim=True)}"
            for key, value in schema.to_plain(node.params).items()
        )
    for leaf in plan.graph.targets.values():
        lines.append(click.style(f"gates@{leaf.target}", bold=True))
        lines += [f"  {g.metric}.{g.rule}: {g.limit}  {click.style(g.origin, dim=True)}" for g in leaf.gates]
    return "\n".join(lines)


def _value(value: object) -> str:
    if value is None or value == []:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def show_diff(diff: KeyDiff, decision: Decision) -> str:
    """The parts of a key that changed, old and new, and when the old one was built."""
    lines = [f"{diff.node}: {decision.state} — {decision.reason}"]
    if diff.old is None:
        lines.append("no other build of a node of this name is in the store")
        return "\n".join(lines)
    lines.append(f"compared with {diff.old.key[:12]}, built {diff.old.observed.get('finished', 'earlier')}")
    for change in diff.changes:
        new = "not known yet" if change.is_pending else _value(change.new)
        lines += [f"  {change.part}", f"    - {_value(change.old)}", f"    + {new}"]
    if not diff.changes:
        lines.append("  nothing in its key changed")
    return "\n".join(lines)
