"""`ingot plan` and `ingot explain`: what would run and why, touching nothing."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from ...artifacts.errors import RecipeError
from .options import PathOption, json_option, recipe_options, source_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ..plan import Plan


@click.command("plan", short_help="What would run, why, and what is cached.")
@recipe_options
@click.option("--graph", is_flag=True, help="Draw the graph: a line a node, its inputs as strokes.")
@click.option("--long", is_flag=True, help="Show all of each node: key, inputs, prediction, parameters.")
@click.option("--resolved", is_flag=True, help="Show every parameter and where its value came from.")
@json_option
@click.option("--svg", type=PathOption(), metavar="FILE", help="Also draw the graph into an SVG file.")
@click.pass_context
def plan_command(ctx: click.Context, /, store: Path | None, svg: Path | None, **options: Any) -> None:
    """Show for each node of RECIPE whether it is cached, would run, or waits; exit 2 when it cannot."""
    from ...artifacts.store import Store
    from ..planning import plan
    from .run import recipe_of

    show = view_of(options)
    planned = plan(recipe_of(options), Store.open(store), options["select"])
    if svg is not None:
        from ..report.graph_file import write_graph

        write_graph(planned, svg)
    click.echo(show(planned))
    if svg is not None:
        click.echo(f"graph: {svg}", err=options["as_json"])
    ctx.exit(2 if planned.missing or planned.short else 0)


def view_of(options: Mapping[str, Any]) -> Callable[[Plan], str]:
    """The view that the options ask for; raises RecipeError for two of them."""
    views: dict[str, Callable[[Plan], str]] = {
        "graph": _graph, "long": _long, "resolved": _resolved, "as_json": _json,
    }  # fmt: skip
    asked = [name for name in views if options[name]]
    if len(asked) > 1:
        one, two = (f"--{name.removeprefix('as_')}" for name in asked[:2])
        raise RecipeError(f"{one} and {two} are two views of a plan", fix="ask for one; --json has all of it")
    return views[asked[0]] if asked else _short


def _short(planned: Plan) -> str:
    from .plan_view import show_plan

    return show_plan(planned)


def _long(planned: Plan) -> str:
    from .plan_view import show_long

    return show_long(planned)


def _resolved(planned: Plan) -> str:
    from .plan_view import show_resolved

    return show_resolved(planned)


def _graph(planned: Plan) -> str:
    from .plan_graph import ASCII, glyphs_for, show_graph
    from .streams import plain

    glyphs = glyphs_for(sys.stdout)
    shown = show_graph(planned, glyphs, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    return plain(shown) if glyphs is ASCII else shown


def _json(planned: Plan) -> str:
    from ..plan import to_json

    return json.dumps(to_json(planned), indent=2, ensure_ascii=False)


@click.command("explain", short_help="Why a node (re)runs.")
@click.argument("names", nargs=-1, required=True, metavar="[RECIPE] NODE")
@source_options
@click.option("--against", metavar="RUN", help="Compare with what this run used; `ingot history` lists runs.")
@json_option
def explain_command(
    names: tuple[str, ...], store: Path | None, against: str | None, as_json: bool, **options: Any
) -> None:
    """Show which parts of the key of NODE, such as quantize@cpu, changed since a run used another one."""
    from pathlib import Path

    from ...artifacts.store import Store
    from ..explain import explain
    from ..locate import find_run
    from ..planning import plan
    from .explain_view import diff_json, show_diff
    from .run import recipe_of

    if len(names) > 2:
        raise RecipeError(f"explain takes a recipe and a node, not {len(names)} names")
    if len(names) == 1 and options["model"] is None:
        fix = "write `ingot explain RECIPE NODE`, or `ingot explain NODE --model DIRECTORY --target cpu`"
        raise RecipeError(f"{names[0]} alone names no node of a recipe", fix=fix)
    opened = Store.open(store)
    run = find_run(opened, against) if against is not None else None
    planned = plan(recipe_of({**options, "recipe": Path(names[0]) if len(names) == 2 else None}), opened)
    diff = explain(planned, names[-1], opened, run)
    if as_json:
        click.echo(json.dumps(diff_json(diff, planned), indent=2, ensure_ascii=False))
    else:
        click.echo(show_diff(diff, planned))
