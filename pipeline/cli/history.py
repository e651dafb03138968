"""`ingot history`: the runs of a store, what one of them did, or what became of a node run after run."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import click

from .options import json_option, store_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command("history", short_help="Past runs, one run, or a node in all of them.")
@click.argument("subject", required=False, metavar="[RUN|NODE]")
@click.option(
    "-n", "--limit", default=20, show_default=True, type=click.IntRange(1), help="Show at most so many runs."
)
@store_option
@json_option
def history_command(subject: str | None, limit: int, store: Path | None, as_json: bool) -> None:
    """List the runs of the store, newest first: verdict, time, what was built and what was cached.

    Of a RUN (the beginning of its id will do) show every node, with what it took against what was predicted;
    of a NODE, such as quantize@cpu, show the same for every run it was in.
    """
    from ..executions import of_node, of_run
    from ..locate import existing_store, find_subject
    from ..past import past_run, past_runs
    from .history_view import runs_json, show_rows, show_runs

    opened = existing_store(store)
    if subject is None:
        runs = list(itertools.islice(past_runs(opened), limit))
        click.echo(json.dumps(runs_json(runs), indent=2) if as_json else show_runs(runs))
        return
    run, node = find_subject(opened, subject)
    if run is not None:
        rows = of_run(past_run(opened, run), opened)
    else:
        rows = list(itertools.islice(of_node(past_runs(opened), str(node), opened), limit))
    click.echo(json.dumps([row.to_json() for row in rows], indent=2) if as_json else show_rows(rows, run))
