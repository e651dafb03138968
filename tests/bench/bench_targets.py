"""One recipe, three targets: a cold run of cpu, arm-mobile and nvidia on the bundled model, node by node.

    python tests/bench/bench_targets.py [--workdir DIR]

The recipe is written into an empty directory and run there from an empty store, as a person would; ARM
processors are not emulated. Every node is printed once, with the CPU seconds and seconds of its own process,
and the targets that share it. On a machine that others use, the wall clock is theirs as well: `two cores
alone` is how long the scheduler would take for the same CPU seconds, a core a node, nothing beside nodes that
measure: at most, as some nodes have work for two.
Bars: no two nodes do the same; the wall clock shows less than 6 minutes or, where others took a tenth of the
machine or more, two cores alone would. It needs ExecuTorch (pip install 'ingot[arm]').
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from ingot.artifacts.store import Store
from ingot.pipeline import demo
from ingot.pipeline.makespan import makespan
from ingot.stages import base
from machine import Usage, described, working_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL = Path(str(demo.__file__)).parent / "wikitext-llama-4m"
# What is told of a target that ends unverified, as `nvidia` does without a GPU.
UNVERIFIED = 3
RECIPE = """\
model: {model}
targets:
  cpu:
  arm-mobile: {{profile: ./phone.yaml}}
  nvidia:
"""
PHONE = """\
summary: arm-mobile, without the emulated run
extends: arm-mobile
verify: {places: {executorch: [host], onnx: [host]}}
"""
BAR_SECONDS, QUIET = 360.0, 0.10


def main() -> int:
    """Prints the nodes and the bars; 1 when one is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir", type=Path, help="keeps recipe, store and deliveries; temporary by default"
    )
    options = parser.parse_args()
    with described(), working_directory(options.workdir) as workdir:
        return _measure(workdir)


def _measure(workdir: Path) -> int:
    place = workdir / "recipe"
    place.mkdir()
    (place / "ingot.yaml").write_text(RECIPE.format(model=MODEL), "utf-8")
    (place / "phone.yaml").write_text(PHONE, "utf-8")
    store = workdir / "store"
    usage, busy = _run([sys.executable, "-m", "ingot", "run", "ingot.yaml", "--store", str(store)], place)
    plan, targets, nodes = *_plan(store), _observed(store)
    print(f"{'node':<36}{'CPU s':>8}{'wall s':>8}  for")
    for name, seen in sorted(nodes.items(), key=lambda item: -float(item[1]["cpu_seconds"])):
        shared = [target for target, needed in targets.items() if name in needed]
        print(f"{name:<36}{seen['cpu_seconds']:8.1f}{seen['seconds']:8.1f}  {', '.join(shared)}")
    seconds = {name: float(nodes[name]["cpu_seconds"]) for name in plan if name in nodes}
    alone = {name for name in seconds if base.get(plan[name]["stage"]).exclusive}
    inputs = {name: list(plan[name]["inputs"].values()) for name in seconds}
    ideal = makespan(seconds, inputs, alone, 2)
    spent = f"{usage.cpu_seconds:.0f} CPU s, of them {sum(seconds.values()):.0f} in nodes"
    print(f"\nwall {usage.seconds:.0f} s, {spent}")
    print(f"two cores alone: {ideal:.0f} s; others took {busy:.0%} of the machine")
    done = [json.dumps([plan[name][part] for part in ("stage", "params", "inputs")]) for name in nodes]
    once = len(done) == len(set(done))
    met = once and (ideal if busy > QUIET else usage.seconds) < BAR_SECONDS
    print(f"bars {'met' if met else 'NOT MET'}")
    return int(not met)


def _run(command: list[str], directory: Path) -> tuple[Usage, float]:
    """Runs the recipe; what it spent, and the share of the machine that others took meanwhile."""
    own, before, started = psutil.Process().cpu_times(), psutil.cpu_times(), time.perf_counter()
    process = psutil.Popen(command, cwd=directory, stdout=sys.stderr)
    code = process.wait()
    seconds = time.perf_counter() - started
    after, ours = psutil.cpu_times(), psutil.Process().cpu_times()
    if code not in (0, UNVERIFIED):
        raise SystemExit(f"the run ended with {code}")
    spent = (ours.children_user - own.children_user) + (ours.children_system - own.children_system)
    idle = (after.idle - before.idle) + (getattr(after, "iowait", 0.0) - getattr(before, "iowait", 0.0))
    total = seconds * psutil.cpu_count()
    return Usage(seconds, spent, 0), max(0.0, (total - idle - spent) / total)


def _plan(store: Path) -> tuple[Mapping[str, Any], Mapping[str, set[str]]]:
    """Each node of the run: its stage, parameters and inputs; and each target's nodes."""
    opened = Store.open(store)
    (run,) = opened.runs()
    document = json.loads((opened.run_dir(run) / "plan.json").read_text("utf-8"))
    nodes = {str(node["name"]): node for node in document["nodes"]}
    targets = {}
    for name, leaf in document["targets"].items():
        needed, waiting = set[str](), [leaf["artifact"], leaf["quality"], leaf["cost"]]
        while waiting:
            each = waiting.pop()
            needed.add(each)
            waiting += [other for other in nodes[each]["inputs"].values() if other not in needed]
        targets[name] = needed
    return nodes, targets


def _observed(store: Path) -> dict[str, dict[str, float]]:
    """What each node that was built cost, by its action."""
    actions = [json.loads(path.read_text("utf-8")) for path in (store / "actions").glob("*.json")]
    return {str(action["node"]): action["observed"] for action in actions}


if __name__ == "__main__":
    sys.exit(main())
