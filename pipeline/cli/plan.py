"""`ingot plan` and `ingot explain`: what would run and why, touching nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .options import json_option, recipe_options, source_options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("plan", short_help="What would run, why, and what is cached.")
@recipe_options
@click.option("--resolved", is_flag=True, help="Show every parameter and where its value came from.")
@json_option
@click.pass_context
def plan_command(
    ctx: click.Context, /, store: Path | None, as_json: bool, resolved: bool, **options: Any
) -> None:
    """Show for each node of RECIPE whether it is cached, would run, or waits; exit 2 when it cannot."""
    from ...artifacts.store import Store
    from ..plan import to_json
    from ..planning import plan
    from .plan_view import show_plan, show_resolved
    from .run import recipe_of

    planned = plan(recipe_of(options), Store.open(store), options["select"])
    if as_json:
        click.echo(json.dumps(to_json(planned), indent=2, ensure_ascii=False))
    else:
        click.echo(show_resolved(planned) if resolved else show_plan(planned))
    ctx.exit(2 if planned.missing or planned.short else 0)


@click.command("explain", short_help="Why a node (re)runs.")
@click.argument("names", nargs=-1, required=True, metavar="[RECIPE] NODE")
@source_options
@json_option
def explain_command(names: tuple[str, ...], store: Path | None, as_json: bool, **options: Any) -> None:
    """Show which parts of the key of NODE, such as quantize@cpu, changed since it was last built."""
    from pathlib import Path

    from ...artifacts.errors import RecipeError
    from ...artifacts.store import Store
    from ..explain import explain
    from ..planning import plan
    from .plan_view import show_diff
    from .run import recipe_of

    if len(names) > 2:
        raise RecipeError(f"explain takes a recipe and a node, not {len(names)} names")
    opened = Store.open(store)
    planned = plan(recipe_of({**options, "recipe": Path(names[0]) if len(names) == 2 else None}), opened)
    diff = explain(planned, names[-1], opened)
    decision = planned.decisions[diff.node]
    if as_json:
        changes = [{"part": c.part, "old": c.old, "new": c.new} for c in diff.changes]
        value = {"node": diff.node, "state": decision.state, "reason": decision.reason, "changes": changes}
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        click.echo(show_diff(diff, decision))
