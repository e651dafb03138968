"""`ingot report` and `ingot gate`: what a finished run found, again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import store_option

if TYPE_CHECKING:
    from pathlib import Path

FORMS = {"markdown": "report.md", "junit": "junit.xml", "json": "gate.json"}


@click.command("report", short_help="Open or print a run's report.")
@click.argument("run", required=False)
@click.option("--markdown", "form", flag_value="markdown", help="Print it as Markdown.")
@click.option("--junit", "form", flag_value="junit", help="Print it as JUnit XML.")
@click.option("--json", "form", flag_value="json", help="Print gate.json, the truth behind all forms.")
@store_option
def report_command(run: str | None, form: str | None, store: Path | None) -> None:
    """Open the HTML report of RUN (the newest by default), or print another form of it."""
    from ..locate import report_directory

    directory = report_directory(run, store)
    if form is not None:
        click.echo((directory / FORMS[form]).read_text("utf-8"), nl=False)
        return
    page = directory / "report.html"
    click.echo(page)
    click.launch(page.as_uri())


@click.command("gate", short_help="Exit with a run's verdict.")
@click.argument("run", required=False)
@store_option
@click.pass_context
def gate_command(ctx: click.Context, /, run: str | None, store: Path | None) -> None:
    """Print the checks of RUN (the newest by default) and exit with its verdict.

    0 pass, 1 fail, 2 bad input or no room, 3 inconclusive or unverified, 4 a stage failed.
    """
    from ..locate import report_directory
    from ..report.record import read_json

    path = report_directory(run, store) / FORMS["json"]
    report = read_json(path.read_text("utf-8"), where=str(path))
    for target in report.targets.values():
        click.echo(
            f"{target.status:<13} {target.name}" + (f": {target.explanation}" if target.explanation else "")
        )
        for check in target.checks:
            click.echo(f"  {check.status:<13} {check.message}")
    ctx.exit(report.exit_code)
