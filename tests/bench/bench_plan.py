"""What planning and scheduling cost: a plan that is all cached, a node that does nothing, two branches.

    python tests/bench/bench_plan.py [--workdir DIR] [--repeats N] [--nodes N]

Planning: `ingot plan` as a whole process, for a recipe of 203 nodes (a matrix of 50 cells) whose outputs are
in the store. Their content is made up, six small files a node: planning looks at records and files alone.

Overhead: runs of a few stages that write one small file, one after the other, through scheduler, journal,
worker and store, every fsync included. Taken off is the start of the process: Python with the modules of a
worker loaded, timed in turns with the runs. Bare Python is timed too, so that the whole price can be read.

Branches: two chains of three stages on two cores, against the same on one core. Some stages sleep, some use
up processor seconds; what others take of the machine lengthens both sides.

Disturbance only ever adds time, so the best repeat counts, here as there; the median stands beside it.
Bars: 0.5 s for the cached plan; 50 ms a node beyond the start of its process; 0.65 for the branches.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.artifacts import schema
from ingot.artifacts.manifest import Action
from ingot.artifacts.store import Store
from ingot.pipeline.demo import MODEL
from ingot.pipeline.execute import execute
from ingot.pipeline.graph import Graph, Node
from ingot.pipeline.journal import Journal, new_run_id
from ingot.pipeline.local import LocalExecutor
from ingot.pipeline.plan import Planner, State
from ingot.pipeline.planning import selected_graph
from ingot.pipeline.recipe import load_recipe
from ingot.stages import base
from machine import described, spend, working_directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingot.pipeline.outcome import Outcome

PLUGIN = Path(__file__).with_name("plugin")
TEXT = "The river ran past the old mill. " * 400
RECIPE = f"""model: {MODEL}
targets: [cpu-int4]
data: {{evaluation: text.txt}}
matrix:
  quantize.scale_search: [minmax, mse]
  quantize.group_size: [16, 32, 64, 128, 256]
  quantize.lm_head_bits: [2, 3, 4, 8, 16]
"""
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation.json", "weights", "more.json")
WORKER = "import ingot.pipeline.worker, ingot.artifacts.store, ingot.artifacts.schema, ingot.stages.base"
PLAN_SECONDS, OVERHEAD_SECONDS, RATIO = 0.5, 0.05, 0.65
CHAIN = 3


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds of a node, or of the start of a process. worker: of the node's process, wall."""

    seconds: float
    cpu_seconds: float
    worker: float = 0.0


def main() -> int:
    """Prints the figures; 1 when a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, help="keeps stores; temporary by default")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--nodes", type=int, default=5, help="nodes of a run that measures overhead")
    options = parser.parse_args()
    _install()
    with described(), working_directory(options.workdir) as workdir:
        os.environ["PYTHONPYCACHEPREFIX"] = str(workdir / "bytecode")
        met = [
            planning(workdir, options.repeats),
            overhead(workdir, options.nodes, options.repeats),
            branches(workdir, max(2, options.repeats // 5)),
        ]
    print(f"bars {'met' if all(met) else 'NOT MET'}")
    return int(not all(met))


def _install() -> None:
    """Puts the stages of this benchmark where this process and every worker find them; keeps bytecode on."""
    sys.path.insert(0, str(PLUGIN))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def planning(workdir: Path, repeats: int) -> bool:
    """A plan of many nodes that is all cached, and one in which the evaluation text changed."""
    folder = workdir / "plan"
    folder.mkdir(exist_ok=True)
    recipe, store = folder / "ingot.yaml", folder / "store"
    recipe.write_text(RECIPE)
    (folder / "text.txt").write_text(TEXT)
    graph = selected_graph(load_recipe(recipe), ())
    _fill(graph, Store.open(store))
    command = (sys.executable, "-m", "ingot", "plan", str(recipe), "--store", str(store))
    print(f"{'ingot plan':<34}{'best s':>8}{'median s':>10}{'CPU s':>8}")
    cached = _timed(f"{len(graph.nodes)} nodes, all cached", command, repeats)
    (folder / "text.txt").write_text(TEXT.replace("mill", "tree"))
    _timed("  its evaluation text changed", command, repeats)
    return cached < PLAN_SECONDS


def _fill(graph: Graph, store: Store) -> None:
    """Gives every node an output and a record, as runs would have."""
    planner, made = Planner(store), {}
    for name, node in graph.nodes.items():
        decision = planner.decide(node, {key: made[source] for key, source in node.inputs.items()})
        if decision.state is State.RUN:
            with store.outbox() as outbox:
                for file in FILES:
                    outbox.write_text(file, f"{decision.key} {file}")
                made[name] = outbox.publish(base.get(node.stage).output, {}).digest
            observed = {"seconds": 2.0, "max_rss_bytes": 10**8, "output_bytes": 10**6}
            store.record(Action(str(decision.key), name, decision.preimage or {}, made[name], observed))
        elif decision.artifact is not None:
            made[name] = decision.artifact.digest


def _timed(label: str, command: Sequence[str], repeats: int) -> float:
    """Prints a command's line; its best seconds."""
    spend(command)
    runs = [spend(command) for _ in range(repeats)]
    seconds = [run.seconds for run in runs]
    cpu_seconds = min(run.cpu_seconds for run in runs)
    print(f"{label:<34}{min(seconds):8.3f}{statistics.median(seconds):10.3f}{cpu_seconds:8.3f}", flush=True)
    return min(seconds)


def overhead(workdir: Path, nodes: int, repeats: int) -> bool:
    """What a node costs beyond the start of its process, when its stage does next to nothing."""
    columns: dict[str, list[Cost]] = {"bare Python": [], "a worker's process, loaded": [], "a node": []}
    for repeat in range(repeats):
        for _ in range(nodes):
            columns["bare Python"].append(_start("pass"))
            columns["a worker's process, loaded"].append(_start(WORKER))
        columns["a node"].append(_idle_run(workdir / f"idle-{repeat}", nodes))
    print(f"\n{'a stage that does nothing':<34}{'best ms':>8}{'median ms':>10}{'CPU ms':>8}")
    for label, costs in columns.items():
        _row(label, min(c.seconds for c in costs), costs)
    _, started, ran = columns.values()
    between = [cost.seconds - cost.worker for cost in ran]
    label, middle = "  of it between two processes", statistics.median(between)
    print(f"{label:<34}{min(between) * 1e3:8.1f}{middle * 1e3:10.1f}")
    over = min(cost.seconds for cost in ran) - min(cost.seconds for cost in started)
    middle = statistics.median(c.seconds for c in ran) - statistics.median(c.seconds for c in started)
    cpu = min(cost.cpu_seconds for cost in ran) - min(cost.cpu_seconds for cost in started)
    label = "beyond the start of its process"
    print(f"{label:<34}{over * 1e3:8.1f}{middle * 1e3:10.1f}{cpu * 1e3:8.1f}", flush=True)
    return over < OVERHEAD_SECONDS


def _row(label: str, best: float, costs: Sequence[Cost]) -> None:
    middle = statistics.median(cost.seconds for cost in costs)
    cpu_seconds = min(cost.cpu_seconds for cost in costs)
    print(f"{label:<34}{best * 1e3:8.1f}{middle * 1e3:10.1f}{cpu_seconds * 1e3:8.1f}")


def _start(code: str) -> Cost:
    """The start of a Python process that runs ``code`` and leaves as a worker does, in a session of its own.

    Linux shares a busy machine out by sessions: in ours it would wait for all that runs there.
    """
    began = time.perf_counter()
    command = (sys.executable, "-P", "-c", f"{code}; import os; os._exit(0)")
    process = subprocess.Popen(command, start_new_session=True)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
    return Cost(time.perf_counter() - began, usage.ru_utime + usage.ru_stime)


def _idle_run(place: Path, nodes: int) -> Cost:
    """A node of a run of stages that do nothing, on average."""
    graph = _graph([_node(f"n{number}", "bench.text", text=str(number)) for number in range(nodes)])
    whole, outcome = _carry_out(graph, place, cores=1)
    results = outcome.results.values()
    cpu_seconds = whole.cpu_seconds + sum(result.cpu_seconds for result in results)
    return Cost(whole.seconds / nodes, cpu_seconds / nodes, sum(result.seconds for result in results) / nodes)


def branches(workdir: Path, repeats: int) -> bool:
    """Two independent branches on two cores, over the same on one core."""
    print(f"\n{'two branches of three stages':<34}{'1 core s':>8}{'2 cores s':>10}{'ratio':>8}")
    kinds = {
        "  that sleep 1 s each": {"wait_seconds": 1.0},
        "  that use 0.7 CPU s each": {"burn_seconds": 0.7},
        "  that do half of both": {"wait_seconds": 0.5, "burn_seconds": 0.35},
    }
    ratios = [
        _branch(label, work, workdir / f"kind-{kind}", repeats)
        for kind, (label, work) in enumerate(kinds.items())
    ]
    return max(ratios) <= RATIO


def _branch(label: str, work: Mapping[str, float], workdir: Path, repeats: int) -> float:
    """Prints a kind's line; its best time on two cores over that on one."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    links = [_link(side, step, work) for side in "ab" for step in range(CHAIN)]
    graph = _graph([_node("root", "bench.text", text="root"), *links])
    for repeat in range(repeats):
        for cores in (1, 2) if repeat % 2 else (2, 1):
            whole, _ = _carry_out(graph, workdir / f"{repeat}-{cores}", cores)
            seconds[cores].append(whole.seconds)
    one, two = (min(found) for found in seconds.values())
    print(f"{label:<34}{one:8.2f}{two:10.2f}{two / one:8.2f}", flush=True)
    return two / one


def _link(side: str, step: int, work: Mapping[str, float]) -> Node:
    """A node of a chain, after the one before it, or after the root."""
    before = f"{side}{step - 1}" if step else "root"
    return _node(f"{side}{step}", "bench.work", {"after": before}, label=f"{side}{step}", **work)


def _node(name: str, stage: str, inputs: Mapping[str, str] | None = None, **params: object) -> Node:
    return Node(name, stage, schema.build(base.get(stage).params, params), inputs or {})


def _graph(nodes: Sequence[Node]) -> Graph:
    return Graph({node.name: node for node in nodes}, {})


def _carry_out(graph: Graph, place: Path, cores: int) -> tuple[Cost, Outcome]:
    """Executes a graph in a new store, as a run does; what this process took for it."""
    store = Store.open(place)
    decide = Planner(store).decide
    began, cpu = time.perf_counter(), time.process_time()
    executor = LocalExecutor(cores=cores)
    with contextlib.closing(executor), Journal.create(store.run_dir(new_run_id()), {}) as journal:
        outcome = execute(graph, decide=decide, store=store, executor=executor, journal=journal)
    cost = Cost(time.perf_counter() - began, time.process_time() - cpu)
    if outcome.failures:
        raise SystemExit(str(outcome.failures[0].error))
    return cost, outcome


if __name__ == "__main__":
    sys.exit(main())
