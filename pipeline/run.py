"""The library behind `ingot run` and `demo`: a recipe in; a verdict, deliveries and a report out."""

from __future__ import annotations

import contextlib
import platform
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..artifacts.errors import IngotError
from ..stages import base
from .deliver import DELIVERED, ON_REQUEST, check_places, deliver_targets
from .evidence import evidence
from .execute import execute
from .journal import Journal, new_run_id, utc_now
from .local import LocalExecutor
from .plan import Plan, Planner, to_json
from .planning import selected_graph
from .report import collect, publish
from .report.merges import merge_reports
from .report.model import RunReport
from .report.pruned import prune_reports
from .report.trainings import training_reports
from .sources import module_digests
from .units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..artifacts.manifest import Artifact
    from ..artifacts.store import Store
    from ..targets.host import Host
    from .events import Event
    from .gate import Status
    from .graph import Graph
    from .outcome import Outcome
    from .recipe import Recipe
    from .report.model import TargetReport

DEFAULT_OUT = "ingot-out"


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes what it makes.

    out: where deliveries and reports go; the recipe's `out`, else `ingot-out`, when None.  allow_failing:
    deliver also what did not pass.  memory_bytes, cores: bounds of the run, what this machine has free
    when None.  command: what reproduces the run, for the report.  select: the only targets and cells to
    build, all when empty; see :func:`ingot.pipeline.matrix.choose`.  force: run although memory or disk space
    is predicted to be short.
    """

    out: Path | None = None
    allow_failing: bool = False
    memory_bytes: int | None = None
    cores: int | None = None
    command: str = ""
    select: tuple[str, ...] = ()
    force: bool = False

    @property
    def statuses(self) -> frozenset[Status]:
        """The statuses with which a target is delivered."""
        return DELIVERED | ON_REQUEST if self.allow_failing else DELIVERED


@dataclass(frozen=True)
class Run:
    """A finished run. directory: its place in the store.  report_path: the HTML report by the deliveries.

    errors: why stages failed, each once.
    """

    report: RunReport
    directory: Path
    report_path: Path
    errors: tuple[IngotError, ...] = ()

    @property
    def verdict(self) -> Status:
        """The worst status of the targets."""
        return self.report.verdict

    @property
    def targets(self) -> Mapping[str, TargetReport]:
        """Each target's status, metrics with intervals, checks, files and delivery, by name."""
        return self.report.targets

    def _repr_html_(self) -> str:
        """How a notebook shows a run."""
        from .report.notebook import render_table

        return render_table(self.report)


def run(
    recipe: Recipe,
    store: Store,
    options: RunOptions,
    on_event: Callable[[Event], None] = lambda _event: None,
) -> Run:
    """Builds, measures, gates, delivers and reports every target of ``recipe``.

    Raises RequirementError for what this machine lacks and StoreError for a place that takes no deliveries,
    before any work; Interrupted on Ctrl-C. A stage that fails is a target with the status `error`, not an
    exception.
    """
    started, clock = utc_now(), time.monotonic()
    planner = Planner(store, memory_bytes=options.memory_bytes, cores=options.cores)
    planned = planner.plan(selected_graph(recipe, options.select))
    planned = planned.forced() if options.force else planned
    planned.require()
    out = options.out or recipe.out or Path(DEFAULT_OUT)
    check_places(out, planned.graph.targets)
    directory = store.run_dir(new_run_id(store.runs()))
    with store.shared_use():
        outcome = carry_out(planned, planner, store, directory, options, on_event)
        report = report_of(
            store, planned, planner.host, outcome, recipe, options, started, time.monotonic() - clock
        )
        taken = evidence(planned.graph, outcome)
        delivered = deliver_targets(
            store, report, artifacts(planned.graph, outcome), out, options.statuses, taken
        )
        page = publish.publish_report(store, delivered, directory, out)
    errors = {str(failure.error): failure.error for failure in outcome.failures if failure.error}
    return Run(delivered, directory, page, tuple(errors.values()))


def carry_out(
    planned: Plan,
    planner: Planner,
    store: Store,
    directory: Path,
    options: RunOptions,
    on_event: Callable[[Event], None],
) -> Outcome:
    """Executes a plan, with its journal in the run's ``directory``."""
    executor = LocalExecutor(memory_bytes=options.memory_bytes, cores=options.cores)
    stages = {base.get(node.stage).module for node in planned.graph.nodes.values()}
    written = {**to_json(planned), "sources": module_digests(stages)}
    with contextlib.closing(executor), Journal.create(directory, written) as journal:
        return execute(
            planned.graph,
            decide=planner.following(planned),
            store=store,
            executor=executor,
            journal=journal,
            on_event=on_event,
        )


def artifacts(graph: Graph, outcome: Outcome) -> dict[str, Artifact]:
    """What there is to deliver, by target; cells of a matrix only where they were chosen."""
    found = {
        name: outcome.results[leaf.artifact].artifact
        for name, leaf in graph.targets.items()
        if leaf.is_delivered
    }
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def report_of(
    store: Store,
    planned: Plan,
    host: Host,
    outcome: Outcome,
    recipe: Recipe,
    options: RunOptions,
    started: str,
    seconds: float,
) -> RunReport:
    """Everything that is known after a run, judged; nothing is delivered yet."""
    graph = planned.graph
    return RunReport(
        run=outcome.run,
        version=__version__,
        started=started,
        seconds=seconds,
        command=options.command,
        model=collect.model_report(graph, outcome),
        targets=collect.target_reports(store, graph, outcome),
        nodes=collect.node_reports(graph, outcome, planned.expected),
        data=collect.data_reports(graph, outcome),
        merges=merge_reports(graph, outcome),
        trainings=training_reports(graph, outcome),
        prunings=prune_reports(graph, outcome),
        environment=environment(host),
        recipe=recipe.source,
        notes=graph.notes,
    )


def environment(host: Host) -> Mapping[str, str]:
    """What the report says of this machine: label → value."""
    return {
        "Ingot": __version__,
        "Python": platform.python_version(),
        "System": f"{platform.system()} {platform.release()} {host.machine}",
        "Processor": f"{host.processor}, {host.cores} cores",
        "Instruction sets": ", ".join(host.isa),
        "Memory": show_bytes(host.memory_bytes),
        **({"GPU": ", ".join(f"{gpu.name} (SM{gpu.sm})" for gpu in host.gpus)} if host.gpus else {}),
    }


def command_line() -> str:
    """The command that was typed, quoted for a shell."""
    return shlex.join(["ingot", *sys.argv[1:]])
