"""`ingot baseline`: pin what a run measured, show it, and hold another run against it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import json_option, store_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...artifacts.store import Store
    from ..baseline import Baseline
    from ..gate import GateReport, MetricResult
    from ..report.model import RunReport


@click.group("baseline", short_help="Pin what a run measured, and hold later runs against it.")
def baseline_command() -> None:
    """Pin what a run measured in a small JSON file, to be kept beside the code, and hold later runs against
    it. `ingot gate --baseline FILE` exits with the verdict.
    """


@baseline_command.command("save", short_help="Write what a run measured to a file.")
@click.argument("places", metavar="[RUN] FILE", nargs=-1, required=True)
@store_option
def save(places: tuple[str, ...], store: Path | None) -> None:
    """Pin what RUN (the newest by default) measured of each target in FILE."""
    from ...artifacts.errors import InputError
    from ...artifacts.files import storage, write_whole
    from ..baseline import pin, render

    run, path = run_and_file(places)
    baseline = pin(*finished_run(run, store))
    for target, reason in baseline.left_out.items():
        click.echo(f"left out {target}: {reason}", err=True)
    if not baseline.targets:
        raise InputError(
            f"the run {baseline.run} measured nothing that could be pinned", fix="name another run"
        )
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, render(baseline))
    click.echo(path)


@baseline_command.command("show", short_help="Show what a file pins.")
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Show the digests, versions and numbers that FILE pins."""
    from ..baseline import read

    for line in baseline_lines(read(file)):
        click.echo(line)


@baseline_command.command("compare", short_help="Show how a run differs from a file.")
@click.argument("places", metavar="[RUN] FILE", nargs=-1, required=True)
@store_option
@json_option
def compare(places: tuple[str, ...], store: Path | None, as_json: bool) -> None:
    """Show how RUN (the newest by default) differs from the baseline in FILE.

    Exits with 2 where the two cannot be compared: other data, another reference, another window or version of
    a metric. Whether a difference is too large is what `ingot gate --baseline FILE` answers.
    """
    import json

    from ..plain import to_plain

    run, path = run_and_file(places)
    _, found = against(run, path, store)
    if as_json:
        click.echo(json.dumps(to_plain(found), indent=2, ensure_ascii=False))
        return
    for target, report in found.items():
        click.echo(target)
        for name, metric in report.metrics.items():
            click.echo(f"  {change_line(name, metric)}")


def run_and_file(places: Sequence[str]) -> tuple[str | None, Path]:
    """`[RUN] FILE` taken apart; raises UsageError for more than two words."""
    if len(places) > 2:
        raise click.UsageError(f"got {len(places)} arguments where [RUN] FILE are two at most")
    return (places[0] if len(places) == 2 else None), Path(places[-1])


def finished_run(run: str | None, store: Path | None) -> tuple[Store, RunReport]:
    """The store, and the report of a run in it, of the newest finished one when None."""
    from ..locate import existing_store, report_directory
    from ..report.publish import JSON
    from ..report.record import read_json

    path = report_directory(run, store) / JSON
    return existing_store(store), read_json(path.read_text("utf-8"), where=str(path))


def against(run: str | None, file: Path, store: Path | None) -> tuple[RunReport, dict[str, GateReport]]:
    """A run's report, and each of its measured targets held against the baseline in a file."""
    from ..baseline import compare, pin, read

    baseline = read(file)
    opened, report = finished_run(run, store)
    return report, compare(baseline, pin(opened, report), report)


def baseline_lines(baseline: Baseline) -> Iterator[str]:
    """A baseline in words."""
    from ..metrics import metric_title
    from ..units import show as shown

    yield f"{baseline.model}, run {baseline.run}, Ingot {baseline.ingot}"
    for name, target in baseline.targets.items():
        yield ""
        yield name
        yield f"  artifact    {target.artifact}"
        yield f"  reference   {target.reference}"
        yield f"  evaluation  {target.evaluation}"
        scored = f"{sum(target.tokens):,} tokens of {len(target.documents):,} documents"
        yield f"  window      {target.window} tokens; {scored} were scored"
        for metric, pinned in target.metrics.items():
            result = pinned.result
            value = shown(result.value, result.unit)
            if result.value_low is not None and result.value_low != result.value_high:
                low, high = (shown(bound, result.unit) for bound in (result.value_low, result.value_high))
                value += f" [{low}, {high}]"
            yield f"  {metric_title(metric):<22}{value}, version {pinned.version}"
    for name, reason in baseline.left_out.items():
        yield ""
        yield f"{name} is left out: {reason}"


def change_line(name: str, metric: MetricResult) -> str:
    """A metric on both sides and its change: ``Perplexity  42.1 → 42.3  +0.40 % [+0.31, +0.49] %``."""
    from ..metrics import metric_title
    from ..units import show as shown
    from ..units import show_delta, show_interval

    change = show_delta(metric.delta, metric.unit, metric.comparison)
    if metric.low is not None and metric.low != metric.high:
        change += f" {show_interval(metric.low, metric.high, metric.unit, metric.comparison)}"
    sides = f"{shown(metric.reference, metric.unit)} → {shown(metric.value, metric.unit)}"
    return f"{metric_title(name):<22}{sides:<28}{change}"
