"""`ingot ls`, `show`, `verify` and `gc`: look at the store, check it, and make room in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ...artifacts.errors import CorruptError
from .options import json_option, size_bytes, store_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command("ls", short_help="List what is in the store.")
@click.option("--runs", "only_runs", is_flag=True, help="List runs in place of artifacts.")
@store_option
@json_option
def ls_command(only_runs: bool, store: Path | None, as_json: bool) -> None:
    """List the artifacts of the store, with the node that made each, or its runs."""
    from ..inventory import artifacts, runs, show_artifacts, show_runs
    from ..locate import existing_store

    opened = existing_store(store)
    if only_runs:
        listed = runs(opened)
        click.echo(json.dumps([row.to_json() for row in listed], indent=2) if as_json else show_runs(listed))
        return
    found = artifacts(opened)
    click.echo(json.dumps([row.to_json() for row in found], indent=2) if as_json else show_artifacts(found))


@click.command("show", short_help="Show one artifact or run.")
@click.argument("reference")
@store_option
def show_command(reference: str, store: Path | None) -> None:
    """Show an artifact by digest, with its files, facts and the action that made it; or a run by its id."""
    from ..inventory import describe
    from ..locate import existing_store

    click.echo(json.dumps(describe(existing_store(store), reference), indent=2, ensure_ascii=False))


@click.command("verify", short_help="Hash the store again.")
@click.argument("references", nargs=-1, metavar="[DIGEST]...")
@store_option
def verify_command(references: tuple[str, ...], store: Path | None) -> None:
    """Hash artifacts again (all, or those named) and set corrupt ones aside; exit 2 when any was corrupt."""
    from ..locate import existing_store, find_digest
    from ..units import show_bytes
    from .progress import counter

    opened = existing_store(store)
    wanted = [find_digest(opened, reference) for reference in references]
    with counter("hashing artifact") as count:
        report = opened.verify(wanted or None, lambda done, total, _digest: count(done, total))
    click.echo(f"sound artifacts: {report.trees}, {show_bytes(report.size_bytes)}")
    for key in report.dangling:
        click.echo(f"the output of action {key[:12]} is not here; it is built again when needed")
    for digest in report.foreign:
        click.echo(f"{digest[:12]} was written by another version of Ingot and was left alone")
    for key in report.unreadable:
        click.echo(f"the action record {key[:12]} is damaged and is ignored")
    if report.corrupt:
        listed = "; ".join(f"{damage.digest[:12]}: {damage.reason}" for damage in report.corrupt)
        raise CorruptError(
            f"set aside as corrupt: {listed}",
            where=str(opened.root),
            fix="run the recipe again: what is missing is rebuilt",
        )


@click.command("gc", short_help="Make room in the store.")
@click.option("--max-size", metavar="SIZE", help="Delete the least recently used down to this, such as 20GB.")
@click.option(
    "--keep-runs", default=1, show_default=True, type=click.IntRange(0), help="Newest runs to keep whole."
)
@store_option
def gc_command(max_size: str | None, keep_runs: int, store: Path | None) -> None:
    """Delete leftovers, then the least recently used artifacts until the store fits --max-size."""
    from ..locate import existing_store
    from ..units import show_bytes

    limit = size_bytes("--max-size", max_size)
    report = existing_store(store).gc(limit, keep_runs=keep_runs)
    removed = len(report.trees) + len(report.jobs) + len(report.outboxes)
    freed, kept = show_bytes(report.freed_bytes), show_bytes(report.kept_bytes)
    click.echo(f"entries removed: {removed}, freed: {freed}, kept: {kept}")
    if not report.within_limit:
        held = show_bytes(report.protected_bytes)
        click.echo(f"{held} are held by runs, pins or locks: lower --keep-runs to free more", err=True)
