"""`ingot report` and `ingot gate`: what a finished run found, again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import store_option

if TYPE_CHECKING:
    from ..gate import GateReport

# The order in which exit codes win.
WORST_FIRST = (2, 4, 1, 3, 0)
FORMS = {"markdown": "report.md", "junit": "junit.xml", "json": "gate.json"}
# Forms that are made when they are asked for, by the function below `report/` that makes them.
RENDERED = {"comment": ("comment", "render_comment"), "gitlab": ("openmetrics", "render_openmetrics")}


@click.command("report", short_help="Open or print a run's report.")
@click.argument("run", required=False)
@click.option("--markdown", "form", flag_value="markdown", help="Print it as Markdown.")
@click.option("--junit", "form", flag_value="junit", help="Print it as JUnit XML.")
@click.option("--json", "form", flag_value="json", help="Print gate.json, the truth behind all forms.")
@click.option("--pr-comment", "form", flag_value="comment", help="Print a short comment for a pull request.")
@click.option("--gitlab-metrics", "form", flag_value="gitlab", help="Print OpenMetrics, which GitLab reads.")
@store_option
def report_command(run: str | None, form: str | None, store: Path | None) -> None:
    """Open the HTML report of RUN (the newest by default), or print another form of it."""
    from ..locate import report_directory

    if form in RENDERED:
        click.echo(rendered(form, run, store), nl=False)
        return
    directory = report_directory(run, store)
    if form is not None:
        click.echo((directory / FORMS[form]).read_text("utf-8"), nl=False)
        return
    page = directory / "report.html"
    click.echo(page)
    click.launch(page.as_uri())


def rendered(form: str, run: str | None, store: Path | None) -> str:
    """A form of a run's report that is not kept beside it."""
    import importlib

    from .baseline import finished_run

    module, function = RENDERED[form]
    _, report = finished_run(run, store)
    text: str = getattr(importlib.import_module(f"..report.{module}", __package__), function)(report)
    return text


@click.command("gate", short_help="Exit with a run's verdict.")
@click.argument("run", required=False)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="A file of `ingot baseline save`, which the run must not be worse than by more than its bounds.",
)
@store_option
@click.pass_context
def gate_command(ctx: click.Context, /, run: str | None, baseline: Path | None, store: Path | None) -> None:
    """Print the checks of RUN (the newest by default) and exit with its verdict.

    With --baseline, its bounds on changes (max_increase, max_decrease) are held against the baseline too, in
    pairs of documents; a target without such a bound is unverified then.

    0 pass, 1 fail, 2 bad input or no room, 3 inconclusive or unverified, 4 a stage failed.
    """
    from ..gate import exit_code
    from .baseline import against, finished_run

    if baseline is None:
        _, report = finished_run(run, store)
        compared: dict[str, GateReport] = {}
    else:
        report, compared = against(run, baseline, store)
    for target in report.targets.values():
        click.echo(
            f"{target.status:<13} {target.name}" + (f": {target.explanation}" if target.explanation else "")
        )
        for check in target.checks:
            click.echo(f"  {check.status:<13} {check.message}")
        if target.name in compared:
            show_compared(compared[target.name])
    codes = (report.exit_code, *(exit_code([found.status]) for found in compared.values()))
    ctx.exit(next(code for code in WORST_FIRST if code in codes))


def show_compared(found: GateReport) -> None:
    """Prints how a target stands against a baseline."""
    reason = "" if found.checks else ": the target has no bound on a change, such as max_increase: 2%"
    click.echo(f"  {found.status:<13} against the baseline{reason}")
    for check in found.checks:
        click.echo(f"    {check.status:<13} {check.message}")
