"""What an int8 and an int4 build of a 60M-parameter Llama costs: CPU seconds, time and peak memory by stage.

    python tests/bench/bench_build.py [--workdir DIR] [--repeats N] [--max-tokens N] [--olive PYTHON]

Each target is built in an empty store: first what its export needs, by a process of its own, whose CPU
seconds (the driver's, its imports and all workers' included) are held against Olive's, best of the repeats;
then all of it, validation included, for the peak memory of every stage as its action record states it.
With --olive, a Python with olive-ai 0.13 and onnxruntime-genai 0.14, Olive builds the same checkpoint.
Bars: any stage at most 3 x the fp32 weights; CPU seconds without validation at most Olive's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.artifacts.files import remove_tree
from ingot.artifacts.store import Store
from ingot.pipeline.assemble import graph_of
from ingot.pipeline.execute import execute
from ingot.pipeline.journal import Journal, new_run_id
from ingot.pipeline.layers import command_line
from ingot.pipeline.local import LocalExecutor
from ingot.pipeline.plan import Planner, to_json
from ingot.pipeline.recipe import recipe_from_options
from machine import Usage, described, spend, working_directory
from make_llama import make

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingot.pipeline.outcome import NodeResult

MODEL, STORE = "llama-60m", "store"
TARGETS = ("cpu-int8", "cpu-int4")
MEMORY_BAR = 3.0
# Olive 0.13.0 on two cores like these: a whole run, imports included (the figures the bars were set by).
OLIVE_CPU_SECONDS = {"cpu-int8": 10.9, "cpu-int4": 11.5}
OLIVE_PASSES = {
    "cpu-int8": {
        "export": {"type": "ModelBuilder", "precision": "fp32"},
        "quantize": {"type": "OnnxDynamicQuantization"},
    },
    "cpu-int4": {
        "quantize": {"type": "Rtn", "bits": 4, "group_size": 32},
        "export": {"type": "ModelBuilder", "precision": "int4"},
    },
}


def build(
    workdir: Path, target: str, *, validated: bool = False, max_tokens: int = 0
) -> Mapping[str, NodeResult]:
    """Builds a target of the model in ``workdir``, in the store there; every node's result by its name.

    validated: with the stages that measure, not only those that the export needs.  max_tokens: how much of
    the evaluation text they read, 0 for all.
    """
    make(workdir / MODEL)
    limit = command_line([f"reference.max_tokens={max_tokens}"])
    graph = graph_of(recipe_from_options(str(workdir / MODEL), (target,), overrides=limit))
    if not validated:
        names = graph.ancestors(graph.targets[target].artifact)
        graph = replace(graph, nodes={name: graph.nodes[name] for name in names}, targets={})
    store = Store.open(workdir / STORE)
    planner = Planner(store)
    planned = planner.plan(graph)
    planned.require()
    run_directory = store.run_dir(new_run_id())
    with (
        contextlib.closing(LocalExecutor()) as executor,
        Journal.create(run_directory, to_json(planned)) as journal,
    ):
        done = execute(graph, decide=planner.decide, store=store, executor=executor, journal=journal)
    if done.failures:
        raise SystemExit("\n".join(f"{failure.node}: {failure.error}" for failure in done.failures))
    return done.results


def main() -> int:
    """Prints the tables; 1 when a bar is not met."""
    options = _options()
    if options.only:
        build(options.workdir, options.only)
        return 0
    with described(), working_directory(options.workdir) as workdir:
        weight_bytes = make(workdir / MODEL) * 4
        print(f"{weight_bytes / 4e6:.1f}M parameters, {weight_bytes / 1e6:.0f} MB as fp32")
        met = [_measure(workdir, target, weight_bytes, options) for target in TARGETS]
    print(f"bars {'met' if all(met) else 'NOT MET'}")
    return int(not all(met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir", type=Path, help="keeps the model and the last store; temporary by default"
    )
    parser.add_argument("--repeats", type=int, default=3, help="builds without validation a target")
    parser.add_argument("--max-tokens", type=int, default=0, help="of the evaluation text; 0 is all")
    parser.add_argument("--olive", help="a Python that Olive is installed in")
    parser.add_argument(
        "--only", metavar="TARGET", help="builds what this export needs, and measures nothing"
    )
    return parser.parse_args()


def _measure(workdir: Path, target: str, weight_bytes: int, options: argparse.Namespace) -> bool:
    """One target without and with validation, and Olive's build; whether the bars are met."""
    command = [sys.executable, __file__, "--workdir", str(workdir), "--only", target]
    runs = []
    for _ in range(options.repeats):
        remove_tree(workdir / STORE)
        runs.append(spend(command))
    exported = build(workdir, target)
    print(f"\n{target:<22}{'CPU s':>8}{'wall s':>9}{'peak MB':>9}{'x weights':>11}")
    rows = _stages(build(workdir, target, validated=True, max_tokens=options.max_tokens))
    for name, usage in rows.items():
        _row(name, usage, weight_bytes)
    driver = runs[-1].cpu_seconds - sum(rows[name].cpu_seconds for name in exported)
    print(f"{'driver':<22}{driver:8.2f}")
    best = min(runs, key=lambda usage: usage.cpu_seconds)
    _row(f"export, best of {len(runs)}", best, weight_bytes)
    if options.olive:
        _row("Olive, the same", _olive(options.olive, workdir, target), weight_bytes)
    bar, worst = OLIVE_CPU_SECONDS[target], max(usage.max_rss_bytes for usage in rows.values()) / weight_bytes
    print(f"CPU {best.cpu_seconds:.1f} s, bar {bar}; peak {worst:.2f} x the weights, bar {MEMORY_BAR}")
    return best.cpu_seconds <= bar and worst <= MEMORY_BAR


def _stages(results: Mapping[str, NodeResult]) -> dict[str, Usage]:
    """What each node cost when it was built, from its action record."""
    observed = {name: result.action.observed for name, result in results.items() if result.action}
    return {
        name: Usage(seen["seconds"], seen["cpu_seconds"], seen["max_rss_bytes"])
        for name, seen in observed.items()
    }


def _row(name: str, usage: Usage, weight_bytes: int) -> None:
    megabytes, factor = usage.max_rss_bytes / 1e6, usage.max_rss_bytes / weight_bytes
    print(f"{name:<22}{usage.cpu_seconds:8.2f}{usage.seconds:9.2f}{megabytes:9.0f}{factor:11.2f}", flush=True)


def _olive(python: str, workdir: Path, target: str) -> Usage:
    """Olive's build of the same checkpoint, from an empty cache."""
    with tempfile.TemporaryDirectory() as scratch:
        workflow = {
            "input_model": {"type": "HfModel", "model_path": str(workdir / MODEL)},
            "passes": OLIVE_PASSES[target],
            "output_dir": f"{scratch}/out",
            "cache_dir": f"{scratch}/cache",
        }
        config = Path(scratch, "workflow.json")
        config.write_text(json.dumps(workflow), "utf-8")
        environment = {**os.environ, "OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
        usage = spend([python, "-m", "olive", "run", "--config", str(config)], environment)
        if not list(Path(scratch, "out").rglob("*.onnx")):  # it exits with 0 when it made nothing
            raise SystemExit("Olive produced no model; run its command by hand to see why")
        return usage


if __name__ == "__main__":
    sys.exit(main())
