"""`ingot run`: build every target of a recipe, gate it and deliver it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ...artifacts.errors import RecipeError
from .options import json_option, recipe_options, run_options, size_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from ..recipe import Recipe
    from ..run import Run


@click.command("run", short_help="Build, gate and deliver every target.")
@recipe_options
@run_options
@json_option
@click.pass_context
def run_command(ctx: click.Context, /, store: Path | None, as_json: bool, **options: Any) -> None:
    """Build every target of RECIPE (a YAML file), gate it and deliver it.

    Without a file, name --model and --target. Exit codes: 0 pass, 1 fail, 2 usage, input or no room, 3
    inconclusive or unverified, 4 a stage failed.
    """
    ctx.exit(carry_out(recipe_of(options), store, as_json, options))


def recipe_of(options: dict[str, Any]) -> Recipe:
    """The recipe that the options name or stand for; raises RecipeError when they do neither, or both."""
    recipe = written_recipe(options)
    if not options.get("allow_pickle"):
        return recipe
    from ..pickles import with_pickles

    return with_pickles(recipe)


def written_recipe(options: dict[str, Any]) -> Recipe:
    """The recipe file, or what stands in its place; errors as in :func:`recipe_of`."""
    from ..layers import command_line, environment
    from ..recipe import load_recipe, recipe_from_options

    overrides = (*environment(os.environ), *command_line(options["settings"]))
    data = {role: str(options[role]) for role in ("calibration", "evaluation") if options[role] is not None}
    if options["recipe"] is not None:
        given = {"model": options["model"], "targets": list(options["targets"]), "data": data}
        return load_recipe(
            options["recipe"], overrides, {name: value for name, value in given.items() if value}
        )
    if options["model"] is None:
        raise RecipeError(
            "nothing to build was named", fix="give a recipe file, or --model DIRECTORY --target cpu"
        )
    return recipe_from_options(options["model"], options["targets"], data=data, overrides=overrides)


def carry_out(recipe: Recipe, store: Path | None, as_json: bool, options: dict[str, Any]) -> int:
    """Runs the recipe with progress on standard error and the outcome on standard output; the exit code."""
    from ...artifacts.store import Store
    from ..run import RunOptions, command_line, run
    from .progress import view

    choices = RunOptions(
        out=options["out"],
        allow_failing=options["allow_failing"],
        memory_bytes=size_bytes("--memory", options["memory"], minimum=1),
        cores=options["cores"],
        command=command_line(),
        select=options.get("select", ()),
        force=options["force"],
    )
    with view() as show:
        finished = run(recipe, Store.open(store), choices, show)
    return show_outcome(finished, as_json)


def show_outcome(finished: Run, as_json: bool) -> int:
    """Prints the table and the paths, or the JSON object, then what went wrong; the exit code of the run."""
    import json

    from ..report.model import summary
    from .errors import show_error
    from .outcome import show_run
    from .streams import silence

    try:
        if as_json:
            click.echo(json.dumps(summary(finished.report, str(finished.report_path)), indent=2))
        else:
            show_run(finished)
        for error in finished.errors:
            show_error(error)
    except BrokenPipeError:  # the verdict stands, whoever reads it
        for stream in (sys.stdout, sys.stderr):
            silence(stream)
    return finished.report.exit_code
