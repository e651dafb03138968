"""`ingot demo`: the bundled model through the whole pipeline, for this machine's CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from .options import json_option, run_options, store_option


@click.command("demo", short_help="The whole pipeline on the bundled model.")
@click.option(
    "--target", "targets", multiple=True, help="A target to build; may be given again [default: cpu]."
)
@click.option("--set", "settings", multiple=True, metavar="NODE.PARAM=VALUE", help="Override a value.")
@store_option
@run_options
@json_option
@click.pass_context
def demo_command(
    ctx: click.Context,
    /,
    targets: tuple[str, ...],
    settings: tuple[str, ...],
    store: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Take the bundled 4.2M-parameter Llama to a gated int8 artifact for this CPU, in about a minute."""
    from ..demo import MODEL, PROMPT
    from ..layers import command_line, environment
    from ..recipe import recipe_from_options
    from ..run import DEFAULT_OUT
    from .run import carry_out

    overrides = (*environment(os.environ), *command_line(settings))
    recipe = recipe_from_options(str(MODEL), targets or ("cpu",), overrides=overrides)
    code = carry_out(recipe, store, as_json, options)
    if not as_json and code == 0:
        delivery = Path(options["out"] or DEFAULT_OUT) / recipe.targets[0].name
        click.echo(f'try it:    ingot generate {delivery} "{PROMPT}"')
    ctx.exit(code)
