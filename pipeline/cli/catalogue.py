"""`ingot stages` and `ingot targets`: what exists, with every parameter, its default and its meaning."""

from __future__ import annotations

import dataclasses
import typing

import click

from ...artifacts import schema
from ...stages import base


@click.command("stages", short_help="The stages and their parameters.")
@click.argument("name", required=False)
def stages_command(name: str | None) -> None:
    """List the stages, or show NAME with its parameters, defaults and meanings."""
    click.echo(stage_page(name) if name else stage_list())


def stage_list() -> str:
    """One line a stage: name, what it takes and gives, what it does."""
    lines = []
    for name in base.names():
        stage = base.get(name)
        taken = ", ".join("|".join(kinds) for kinds in stage.inputs.values()) or "-"
        lines.append(f"{name:<20} {taken} → {stage.output}\n{'':<20} {stage.summary}")
    return "\n".join(lines)


def stage_page(name: str) -> str:
    """One stage in full; raises RecipeError for a name that does not exist."""
    stage = base.get(name)
    hints = typing.get_type_hints(stage.params)
    lines = [
        f"{stage.name}  (version {stage.version}, {stage.determinism})",
        f"  {stage.summary}",
        "",
        "inputs",
        *(f"  {key}: {' or '.join(kinds)}" for key, kinds in stage.inputs.items()),
        f"output\n  {stage.output}",
        "",
        "parameters",
    ]
    for key, field in schema.fields(stage.params).items():
        required = field.default is dataclasses.MISSING
        default = "required" if required else f"default {_show(field.default)}"
        choices = field.metadata.get("choices")
        kind = " | ".join(_show(choice) for choice in choices) if choices else schema.describe(hints[key])
        lines.append(f"  {key}: {kind}  [{default}]")
        lines.append(f"      {field.metadata['doc']}")
    return "\n".join(lines)


def _show(value: object) -> str:
    if value == ():
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
