"""Options that several commands share, spelled once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ...artifacts.errors import RecipeError

Function = TypeVar("Function", bound=Callable[..., Any])


class PathOption(click.Path):
    """A path that is not empty: an unset variable of a script must not become the working directory."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a usage error for an empty one."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


store_option = click.option(
    "--store",
    type=PathOption(),
    help="The store's directory [default: INGOT_STORE, else ~/.cache/ingot].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


def recipe_options(function: Function) -> Function:
    """RECIPE, or --model and --target in its place, what overrides them, and which targets are meant."""
    argument = click.argument("recipe", required=False, type=PathOption())
    select = click.option(
        "--select",
        multiple=True,
        metavar="TARGET",
        help="Only this target, or this cell of a matrix, such as 'cpu[bits=4]'; may be given again.",
    )
    return argument(source_options(select(function)))


def source_options(function: Function) -> Function:
    """What stands in place of a recipe, what overrides one, and the store."""
    for decorate in reversed(
        [
            click.option("--model", help="A checkpoint directory, or org/name@revision, in place of RECIPE."),
            click.option("--target", "targets", multiple=True, help="A target to build; may be given again."),
            click.option("--evaluation", type=PathOption(), help="Held-out text for measuring."),
            click.option("--calibration", type=PathOption(), help="Text for statistics."),
            click.option(
                "--allow-pickle",
                is_flag=True,
                help="Take tensors from pickled weights where there are no safetensors.",
            ),
            click.option(
                "--set", "settings", multiple=True, metavar="NODE.PARAM=VALUE", help="Override a value."
            ),
            store_option,
        ]
    ):
        function = decorate(function)
    return function


def run_options(function: Function) -> Function:
    """Where a run delivers to, and the bounds it keeps."""
    for decorate in reversed(
        [
            click.option("--out", type=PathOption(), help="Where deliveries go [default: ingot-out]."),
            click.option("--allow-failing", is_flag=True, help="Deliver also what did not pass its gates."),
            click.option("--memory", metavar="SIZE", help="What all stages together may hold, such as 8GB."),
            click.option("--cores", type=click.IntRange(1), help="Cores to use; all when not given."),
            click.option(
                "--force", is_flag=True, help="Run although memory or disk is predicted to be short."
            ),
        ]
    ):
        function = decorate(function)
    return function


def size_bytes(option: str, text: str | None, *, minimum: int = 0) -> int | None:
    """`8GB` in bytes, None for None; raises RecipeError for what is no size, or below ``minimum`` bytes."""
    from ..units import parse_quantity

    if text is None:
        return None
    try:
        size = int(parse_quantity(text, "bytes"))
    except ValueError as error:
        raise RecipeError(f"{option}: {error}", fix="write a size such as 500MB or 20GiB") from None
    if size < minimum:
        raise RecipeError(f"{option}: {text} is below {minimum} B", fix="write a size such as 500MB or 20GiB")
    return size
