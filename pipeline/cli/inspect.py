"""`ingot inspect`: what a checkpoint is and what each target would need, from headers alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .options import json_option

if TYPE_CHECKING:
    from ..inspection import Inspection


@click.command("inspect", short_help="Parameters, bytes, cache and needs, from headers.")
@click.argument("model")
@click.option("--target", "targets", multiple=True, help="Only this target; may be given again.")
@json_option
def inspect_command(model: str, targets: tuple[str, ...], as_json: bool) -> None:
    """Show what MODEL (a checkpoint's directory, or org/name@revision) holds and what each target would need.

    No weight is read. A checkpoint that intake would refuse is shown as far as it goes, and exits with 2.
    """
    from ..inspection import inspect

    found = inspect(model, targets)
    if as_json:
        value = {
            "facts": asdict(found.facts) if found.facts else None,
            "parts": [asdict(part) for part in found.parts],
            "kv_bytes_per_token": found.kv_bytes_per_token,
            "kv_tokens": found.kv_tokens,
            "targets": [asdict(need) for need in found.needs],
            "notes": list(found.notes),
            "objection": str(found.objection) if found.objection else None,
        }
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        click.echo(show(found))
    if found.objection is not None:
        raise found.objection


def show(found: Inspection) -> str:
    """The inspection as text: a line of facts, the tensors, and a line a target."""
    from ..units import show_bytes, show_count

    lines = []
    facts = found.facts
    if facts is not None:
        lines += [
            (
                f"{facts.architecture} ({facts.task}), {show_count(facts.parameters)} parameters, "
                f"{show_bytes(facts.weight_bytes)} in {facts.dtype}"
            ),
            (
                f"{facts.layers} layers, width {facts.hidden:,}, vocabulary {facts.vocabulary:,}, "
                f"context {facts.context:,}{', tied embedding' if facts.tied else ''}"
            ),
            "",
        ]
    width = max((len(part.name) for part in found.parts), default=0)
    for part in found.parts:
        shape = " × ".join(map(str, part.shape)) or "scalar"
        lines.append(
            f"{part.name:<{width}}  {part.count:>4} ×  {shape:<16} {part.dtype:<5}"
            f"{show_count(part.parameters):>16}  {show_bytes(part.size_bytes):>9}"
        )
    if found.kv_bytes_per_token:
        lines += ["", f"a token's keys and values: {show_bytes(found.kv_bytes_per_token)} in float32"]
    if found.needs:
        lines += ["", f"{'target':<14}{'weights':>10}{'memory':>10}  what would be done"]
    for need in found.needs:
        if need.fault:
            lines.append(f"{need.target:<14}{need.fault}")
            continue
        parts = ", ".join(
            f"{name} {show_count(count)}" for name, count in sorted((need.widths or {}).items())
        )
        lines.append(
            f"{need.target:<14}{show_bytes(need.disk_bytes):>10}{show_bytes(need.memory_bytes):>10}  "
            f"{' → '.join(need.stages)}: {parts}"
        )
    if found.needs and found.kv_bytes_per_token:
        lines.append(f"memory: weights and the cache of one sequence of {found.kv_tokens:,} tokens")
    lines += [f"note: {note}" for note in found.notes]
    return "\n".join(lines)
