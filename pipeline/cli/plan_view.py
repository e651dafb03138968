"""A plan, its resolved parameters and a key's changes as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...artifacts import schema
from ..units import show_bytes, show_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..graph import Node
    from ..plan import Decision, Plan

COSTS = {"seconds": show_seconds, "max_rss_bytes": show_bytes}
COLOURS = {"hit": "cyan", "run": "green", "pending": "yellow", "blocked": "red"}
DEFAULT = "default"


def show_plan(plan: Plan) -> str:
    """Two lines a node: decision, stage, reason and what it will take; below, why it is in the graph."""
    width = max(len(name) for name in plan.decisions)
    wide = max(len(plan.graph.nodes[name].stage) for name in plan.decisions)
    lines = []
    for name, decision in plan.decisions.items():
        node = plan.graph.nodes[name]
        expected = expected_words(decision)
        told = f"{decision.reason} ({expected})" if expected else decision.reason
        lines.append(f"{_state(decision)} {name:<{width}}  {node.stage:<{wide}}  {told}")
        lines.append(f"{'':<8} {'':<{width}}  {click.style(node.reason, dim=True)}")
    return "\n".join([*lines, "", *closing_lines(plan)])


def show_long(plan: Plan) -> str:
    """Everything that is known of each node: key, reason, inputs, artifact, what it takes, its parameters."""
    lines = []
    for name, decision in plan.decisions.items():
        node = plan.graph.nodes[name]
        lines.append(f"{_state(decision)} {click.style(name, bold=True)}  ({node.stage})")
        facts = {
            "reason": decision.reason,
            "why": node.reason,
            "key": decision.key or "not known yet",
            "takes": ", ".join(f"{source} as {key}" for key, source in node.inputs.items()) or "nothing",
            "artifact": _artifact(decision),
            "took": _took(decision),
            "will take": _will_take(decision),
        }
        lines += [f"  {click.style(f'{title:<10}', dim=True)}{told}" for title, told in facts.items() if told]
        lines += _parameters(node)
        lines.append("")
    return "\n".join([*lines, *closing_lines(plan)])


def closing_lines(plan: Plan) -> list[str]:
    """What every view of a plan ends with: counts and totals, notes, and what this machine lacks."""
    return [
        f"{plan.counts}{_total(plan)}",
        *(f"note: {note}" for note in plan.graph.notes),
        *_missing(plan),
        *(f"short of: {each.name} — {each.fix}" for each in plan.short),
        *(f"{name} will end unverified: {reason}" for name, reason in plan.unverified.items()),
        *(f"to verify it: {each.fix}" for each in plan.absent),
    ]


def _missing(plan: Plan) -> Iterator[str]:
    """What is missing, a line a remedy; a name without a range says less than the same with one."""
    for fix in dict.fromkeys(each.fix for each in plan.missing):
        names = list(dict.fromkeys(each.name for each in plan.missing if each.fix == fix))
        named = [name for name in names if not any(other.startswith(f"{name} ") for other in names)]
        yield f"missing: {', '.join(named)} — {fix}"


def _state(decision: Decision) -> str:
    return click.style(f"{decision.state.upper():<8}", fg=COLOURS[decision.state])


def _artifact(decision: Decision) -> str:
    if decision.artifact is None:
        return ""
    return f"{decision.artifact.digest} ({show_bytes(decision.artifact.record.size_bytes)})"


def _took(decision: Decision) -> str:
    """What a node's output cost when it was made, and which run made it."""
    observed: Mapping[str, Any] = decision.action.observed if decision.action else {}
    parts = [show(observed[name]) for name, show in COSTS.items() if name in observed]
    run = [f"in the run {observed['run']}"] if "run" in observed else []
    return ", ".join(parts + run)


def _will_take(decision: Decision) -> str:
    found = decision.expected
    if found is None:
        return ""
    return (
        f"{show_seconds(found.seconds)}, {show_seconds(found.cpu_seconds)} of CPU, "
        f"{show_bytes(found.max_rss_bytes)} of memory at most, {show_bytes(found.output_bytes)} of disk; "
        f"{found.basis}"
    )


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


def expected_words(decision: Decision) -> str:
    """What a node will take in a few words; empty for one that has nothing to do."""
    found = decision.expected
    if found is None:
        return ""
    return f"about {show_seconds(found.seconds)}, {show_bytes(found.max_rss_bytes)}, {found.basis}"


def show_resolved(plan: Plan) -> str:
    """Every parameter of every node, and who gave its value."""
    lines = []
    for name, node in plan.graph.nodes.items():
        lines.append(click.style(f"{name}  ({node.stage})", bold=True))
        lines += _parameters(node)
    for leaf in plan.graph.targets.values():
        lines.append(click.style(f"gates@{leaf.target}", bold=True))
        lines += [f"  {g.metric}.{g.rule}: {g.limit}  {click.style(g.origin, dim=True)}" for g in leaf.gates]
    return "\n".join(lines)


def _parameters(node: Node) -> list[str]:
    return [
        f"  {key}: {shown_value(value)}  {click.style(node.origins.get(key, DEFAULT), dim=True)}"
        for key, value in schema.to_plain(node.params).items()
    ]


def shown_value(value: object) -> str:
    """A parameter's value as it is read: lists without brackets, nothing as a word."""
    if value is None or value == []:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
