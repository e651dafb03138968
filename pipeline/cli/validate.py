"""`ingot validate`: measure a delivery on the machine at hand, and keep what was found beside it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from .options import PathOption, json_option, store_option

if TYPE_CHECKING:
    from pathlib import Path

    from ..report.model import TargetReport
    from ..validation import Verification


@click.command("validate", short_help="Measure a delivery on this machine.")
@click.argument("delivery", type=PathOption())
@click.option(
    "--reference", type=PathOption(),
    help="The reference's predictions, in place of the delivery's own or those of the store.",
)  # fmt: skip
@click.option(
    "--beside", metavar="MODEL",
    help="The reference's artifact, a directory or a digest, which cost takes turns with.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Compute threads; physical cores when not given.")
@store_option
@json_option
@click.pass_context
def validate_command(
    ctx: click.Context,
    /,
    delivery: Path,
    reference: Path | None,
    beside: str | None,
    threads: int | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Measure DELIVERY through its runtime, here, and hold it against the bounds in its manifest.

    Finishes what could not be verified where it was built, and checks what was; what is for phones also runs
    on emulated processors, after `ingot setup arm-emulation`. Every run adds a file to
    DELIVERY/verifications; the manifest stays as it is. 0 pass, 1 fail, 2 bad input or a device or library
    that is missing, 3 inconclusive or unverified, 4 a stage failed.
    """
    from ...artifacts.store import Store
    from ..locate import model_directory
    from ..validation import Options, validate
    from .progress import counter

    options = Options(
        reference, model_directory(beside, store) if beside else None, Store.open(store), threads or 0
    )
    with counter("measuring, part") as count:
        found = validate(delivery, options, lambda done, total, _what: count(done, total))
    if as_json:
        short = {key: value for key, value in found.document.items() if key not in ("quality", "cost")}
        click.echo(json.dumps({**short, "path": str(found.path)}, indent=2))
    else:
        show(found)
    ctx.exit(found.exit_code)


def show(found: Verification) -> None:
    """Prints the table of metrics, the verdict with its checks, where it was measured, and the file."""
    from rich.console import Console

    from ..report.emulated import sentence
    from .outcome import WIDTH, fitting_table
    from .overview import COLOURS, MARKS

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    target = as_target(found)
    with console.capture() as drawn:
        console.print(fitting_table(target, console))
    click.echo(drawn.get(), nl=False, file=sys.stdout)
    click.echo(
        click.style(f" {target.status.upper()} ", fg="white", bg=COLOURS[target.status], bold=True), nl=False
    )
    click.echo(f" {target.name}" + (f": {found.explanation}" if found.explanation else ""))
    for check in target.checks:
        click.echo(f"  {click.style(MARKS[check.status], fg=COLOURS[check.status])} {check.message}")
    for each in found.emulated:
        click.echo(f"  {sentence(each)}")
    for note in target.notes:
        click.echo(f"  note: {note}")
    device = found.environment.get("GPU") or found.environment["Processor"]
    click.echo(f"\nmeasured on: {device}\nrecord:      {found.path}")


def as_target(found: Verification) -> TargetReport:
    """A verification as the tables of runs show a target."""
    from ..report.model import TargetReport

    return TargetReport(
        name=found.target, status=found.verdict.status, profile="", metrics=found.verdict.metrics,
        checks=found.verdict.checks, format=found.format, notes=found.notes,
    )  # fmt: skip
