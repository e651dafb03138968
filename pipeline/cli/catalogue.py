"""`ingot stages` and `ingot targets`: what exists, with every parameter, its default and its meaning."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from ...artifacts import schema
from ...artifacts.errors import RecipeError
from ...stages import base
from ...targets import profile as profiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ...targets.profile import Profile
    from ...targets.rules import Rule

# Limits that are stated as a lowest and a highest value.
RANGES = ("opset", "ir_version")


@click.command("stages", short_help="The stages and their parameters.")
@click.argument("name", required=False)
def stages_command(name: str | None) -> None:
    """List the stages, or show NAME with its parameters, defaults and meanings."""
    click.echo(stage_page(name) if name else stage_list())


@click.command("targets", short_help="The target profiles.")
@click.argument("name", required=False)
@click.option("--model", help="Say what NAME chooses for this model, and why.")
def targets_command(name: str | None, model: str | None) -> None:
    """List the targets, or show all that NAME (or the profile in a .yaml file) decides, and why."""
    if model is None:
        click.echo(target_page(profiles.get(name)) if name else target_list())
        return
    if name is None:
        raise RecipeError("--model asks what a target chooses", fix="name one: ingot targets NAME --model M")
    from .chosen import chosen_page

    click.echo(chosen_page(name, model))


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
        *(f"  {stem}1, {stem}2 ...: {' or '.join(kinds)}" for stem, kinds in stage.many.items()),
        f"output\n  {stage.output}",
        "",
        "parameters",
    ]
    for key, field in schema.fields(stage.params).items():
        if field.metadata.get("internal"):
            continue
        required = field.default is dataclasses.MISSING
        default = "required" if required else f"default {_show(field.default)}"
        choices = field.metadata.get("choices")
        hint = hints[field.name]
        kind = " | ".join(_show(choice) for choice in choices) if choices else schema.describe(hint)
        lines.append(f"  {key}: {kind}  [{default}]")
        lines.append(f"      {field.metadata['doc']}")
    return "\n".join(lines)


def target_list() -> str:
    """One line a target, those that can be built first: name, status, what it is."""
    known = sorted(map(profiles.get, profiles.names()), key=lambda each: (each.status, each.name))
    width = max(len(each.name) for each in known)
    return "\n".join(f"{each.name:<{width}}  {each.status:<8} {each.summary}" for each in known)


def target_page(profile: Profile) -> str:
    """One target in full: its choices with their conditions and reasons, gates, and what it takes."""
    lines = [
        f"{profile.name}  ({profile.status}, runtime {profile.runtime})",
        f"  {profile.summary}",
        *_part("choices, first to last: a later one that holds overrides", _rules(profile.choices)),
        *_part("gates, unless the recipe says otherwise", _rules(profile.gates)),
        *_part("takes", _stated(vars(profile.accepts))),
        *_part("limits of its device and runtime", _stated(vars(profile.limits))),
        *_part("validated", _stated(vars(profile.verify))),
    ]
    return "\n".join(lines)


def _part(title: str, lines: Iterable[str]) -> list[str]:
    """A titled part of a page; nothing when there is nothing to say."""
    found = list(lines)
    return ["", title, *found] if found else []


def _rules(rules: Iterable[Rule]) -> Iterator[str]:
    """Each rule: its condition, its settings with their origins, and its reason."""
    for rule in rules:
        conditions = ", ".join(f"{name} {_show(wanted)}" for name, wanted in rule.when.items())
        yield f"  when {conditions}" if conditions else "  always"
        for setting in rule.settings:
            yield f"    {'.'.join(setting.path)}: {_show(setting.value)}  [{setting.origin}]"
        if rule.because:
            yield f"    because {rule.because}"


def _stated(values: Mapping[str, object]) -> Iterator[str]:
    for name, value in values.items():
        if name in RANGES and isinstance(value, tuple):
            yield f"  {name}: {value[0]} to {value[-1]}"
        elif value is not None:
            yield f"  {name}: {_show(value)}"


def _show(value: object) -> str:
    if value == ():
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return f"{value:,.0f}"
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_show(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
