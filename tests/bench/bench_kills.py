"""Kills whole runs at random moments, resumes each, and counts what is wrong afterwards.

    python tests/bench/bench_kills.py [--kills 30] [--seed 0] [--workdir DIR]

A tiny Llama (random weights, the bundled tokenizer) is built for two targets by `ingot run`, once without
disturbance. Then, each time in a store, deliveries and temporary directory of its own, the same command is
started and, at a moment drawn evenly from the first run's length, SIGKILL goes to the process group of the
command and of everything that it started: nobody gets a chance to clean up. `ingot verify` reads what is
left, the same command runs again to its end, then `ingot verify` and `ingot gc`. Every fourth time the
command alone is killed, and its workers have to notice; every fifth, the run that resumes is killed too.

Digests: of what every node made and of every delivered file, but for those that hold measured times. Corrupt:
trees and records that `verify` sets aside. Orphans: files that `gc` leaves although neither the resumed run
nor the store's layout accounts for them, half-written deliveries and temporary files included.
Bars: every digest as in the undisturbed run, 0 corrupt, 0 orphan bytes. Exit code 1 when one is not met.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from ingot.artifacts.digest import digest_file
from ingot.artifacts.files import remove_tree
from ingot.artifacts.store import Store

MODEL = "llama-tiny"
RECIPE = """\
model: ../llama-tiny
targets: {cpu-int8: , cpu-int4: }
measure:
  reference: {max_tokens: 4096, new_tokens: 1}
  cost: {repeats: 1, passes: 1, prefill_tokens: 8, decode_tokens: 2}
gates: {perplexity: {max_increase: 50%}}
"""
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
COMMAND = (sys.executable, "-m", "ingot")
# What holds seconds: two runs never measure the same.
TIMED_STAGES = frozenset({"validate.cost"})
TIMED_FILES = frozenset({"manifest.json", "README.md", "report.html", "report.md", "gate.json", "junit.xml"})
# Folders of a store in which nothing may stay behind.
EMPTY = ("jobs", "tmp", "trash")
# Where jinja2 keeps compiled templates for the next process, below the temporary directory.
TEMPLATES = "_jinja2-cache-*/ingot-*.cache"
KEPT_LOCKS = frozenset({"use.lock", "record.lock"})
LONGEST_SECONDS = 600


@dataclass(frozen=True)
class Place:
    """A directory with a recipe, a store of that name, deliveries `out` and a temporary directory `tmp`."""

    root: Path
    name: str = "store"

    @staticmethod
    def make(root: Path, recipe: str = RECIPE) -> Place:
        """An empty one."""
        (root / "tmp").mkdir(parents=True)
        (root / "ingot.yaml").write_text(recipe, encoding="utf-8")
        return Place(root)

    @property
    def store(self) -> Path:
        """The root of the store."""
        return self.root / self.name

    def start(self) -> subprocess.Popen[bytes]:
        """`ingot run`, in a process group of its own."""
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(
                [*COMMAND, "run", "ingot.yaml", "--store", self.name, "--out", "out", "--json"],
                cwd=self.root, env=self._environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def ingot(self, *arguments: str) -> None:
        """A command that has to succeed; ends the benchmark with what it said when it does not."""
        done = subprocess.run(
            [*COMMAND, *arguments, "--store", self.name],
            cwd=self.root, env=self._environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"ingot {' '.join(arguments)} in {self.root} failed: {done.stdout}{done.stderr}")

    def finish(self) -> float:
        """Runs to the end, which has to be a pass; the seconds it took."""
        started = time.perf_counter()
        code = self.start().wait(LONGEST_SECONDS)
        if code:
            raise SystemExit(f"the run in {self.root} exited with {code}; see its log")
        return time.perf_counter() - started

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("INGOT_")}
        return {**kept, "TMPDIR": str(self.root / "tmp"), "GITHUB_STEP_SUMMARY": ""}


@dataclass(frozen=True)
class Kill:
    """What one kill led to. struck: whether the run still ran.  recorded: nodes whose output was by then."""

    struck: bool
    recorded: int
    resumed: int
    differing: tuple[str, ...]
    corrupt: int
    leftover_bytes: int
    orphans: tuple[tuple[str, int], ...]

    @property
    def is_clean(self) -> bool:
        """Whether every bar is met."""
        return not (self.differing or self.corrupt or self.orphans)


def main() -> int:
    """Prints a line a kill and the sums; 1 when a bar is not met."""
    from machine import described, working_directory

    options = _options()
    with described(), working_directory(options.workdir) as workdir:
        _make_model(workdir)
        whole = Place.make(workdir / "undisturbed")
        seconds = whole.finish()
        expected = digests(whole)
        print(f"undisturbed: {seconds:.1f} s, {len(expected)} digests to compare")
        print(f"{'kill':>4}{'at s':>10}{'whom':>9}{'recorded':>10}{'resumed':>9}{'differ':>8}{'corrupt':>9}"
              f"{'left bytes':>12}{'orphan bytes':>14}")  # fmt: skip
        generator = random.Random(options.seed)
        kills: list[Kill] = []
        while (struck := sum(kill.struck for kill in kills)) < options.kills:
            number = struck + 1
            place = Place.make(workdir / f"run-{len(kills) + 1}")
            moments = [generator.uniform(0, seconds) for _ in range(1 + (number % 5 == 0))]
            whom = "driver" if number % 4 == 0 else "all"
            kill = carry_out(place, moments, whom, expected)
            kills.append(kill)
            at, whom = "+".join(f"{moment:.1f}" for moment in moments), whom if kill.struck else "too late"
            print(
                f"{number:>4}{at:>10}{whom:>9}{kill.recorded:>10}{kill.resumed:>9}{len(kill.differing):>8}"
                f"{kill.corrupt:>9}{kill.leftover_bytes:>12,}{sum(size for _, size in kill.orphans):>14,}",
                flush=True,
            )
            for what in (*kill.differing, *(name for name, _ in kill.orphans)):
                print(f"      {what}", flush=True)
            if kill.is_clean:
                remove_tree(place.root)
    met = all(kill.is_clean for kill in kills)
    clean = sum(kill.is_clean for kill in kills if kill.struck)
    print(f"{clean} of {options.kills} kills left nothing wrong")
    print(f"bars {'met' if met else 'NOT MET'}")
    return int(not met)


def carry_out(place: Place, moments: list[float], whom: str, expected: dict[str, str]) -> Kill:
    """Starts and kills a run once a moment, then resumes it and looks for what is wrong."""
    struck = [kill_after(place.start(), moment, whom) for moment in moments]
    known = Store.open(place.store)
    before = known.verify()
    recorded = len(list(known.actions()))
    leftovers = sum(size for _, size in orphans(place))
    place.finish()
    resumed = len(_journal(place, "node_started"))
    found = digests(place)
    differing = tuple(name for name in sorted(expected | found) if expected.get(name) != found.get(name))
    place.ingot("verify")
    after = Store.open(place.store).verify()
    place.ingot("gc")
    corrupt = sum(len(report.corrupt) + len(report.unreadable) for report in (before, after))
    return Kill(all(struck), recorded, resumed, differing, corrupt, leftovers, tuple(orphans(place)))


def kill_after(process: subprocess.Popen[bytes], seconds: float, whom: str) -> bool:
    """Kills a run, ``whom``: `all` its processes at once or the `driver` alone; returns when all are gone.

    False when it had ended by itself, which is faster than undisturbed.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return False
    started = psutil.Process(process.pid).children(recursive=True)
    groups = {process.pid}
    if whom == "all":
        for child in started:
            with contextlib.suppress(ProcessLookupError):
                groups.add(os.getpgid(child.pid))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(started, timeout=30)
    if alive:
        raise SystemExit(f"{alive} outlived the run that started them")
    return True


def digests(place: Place) -> dict[str, str]:
    """What came of a finished run: the digest of every node's output and delivered file without times."""
    stages = {event["node"]: event["stage"] for event in _plan(place)}
    made = {
        event["node"]: event["artifact"]
        for event in _journal(place, "node_finished")
        if stages[event["node"]] not in TIMED_STAGES
    }
    files = sorted(path for path in (place.root / "out").rglob("*") if path.is_file())
    shipped = {
        str(path.relative_to(place.root)): digest_file(path) for path in files if path.name not in TIMED_FILES
    }
    return {**made, **shipped}


def orphans(place: Place) -> list[tuple[str, int]]:
    """Files that the newest run and the layout of a store do not account for: path and bytes."""
    events = _journal(place, "node_finished")
    keys, trees = ({event[name] for event in events} for name in ("key", "artifact"))
    known = Store.open(place.store)
    keys |= {action.key for action in known.actions()}
    trees |= {action.output for action in known.actions()}
    found = []
    for path in sorted(path for path in place.root.rglob("*") if not path.is_dir() or path.is_symlink()):
        parts = path.relative_to(place.root).parts
        inside = parts[1:] if parts[0] == place.name else None
        is_cache = parts[0] == "tmp" and fnmatch.fnmatch("/".join(parts[1:]), TEMPLATES)
        outside = parts[0] not in ("tmp", place.name) or is_cache
        fine = outside if inside is None else _belongs(inside, keys, trees)
        if not fine or any(part.startswith(".") for part in parts):
            found.append(("/".join(parts), path.lstat().st_size))
    # A directory takes no bytes that du would not count again, but is left over all the same.
    for folder in (place.store / name for name in EMPTY):
        empty = (path for path in folder.iterdir() if path.is_dir() and not any(path.rglob("*")))
        found += [(f"{path.relative_to(place.root)}/", 0) for path in empty]
    return found


def _belongs(parts: tuple[str, ...], keys: set[str], trees: set[str]) -> bool:
    """Whether a file belongs in a store with these keys and trees."""
    match parts:
        case ("format.json" | "journal.jsonl" | "clock",) | ("stats", "files" | "verdicts", _) | ("runs", *_):
            return True
        case ("trees", digest, *_):
            return digest in trees
        case ("stats", "trees", name):
            return Path(name).stem in trees
        case ("actions", name):
            return Path(name).stem in keys
        case ("locks", name):
            return name in KEPT_LOCKS
    return False


def _plan(place: Place) -> list[dict[str, str]]:
    nodes = json.loads((_newest_run(place) / "plan.json").read_text("utf-8"))["nodes"]
    return [{"node": node["name"], "stage": node["stage"]} for node in nodes]


def _journal(place: Place, kind: str) -> list[dict[str, str]]:
    """The events of one kind in the newest run's journal; none where it has none yet."""
    run = _newest_run(place)
    path = run / "events.jsonl"
    lines = path.read_text("utf-8").splitlines() if run.name and path.exists() else []
    events = (json.loads(line) for line in lines if line.endswith("}"))
    return [event for event in events if event["event"] == kind]


def _newest_run(place: Place) -> Path:
    runs = Store.open(place.store).runs()
    return place.store / "runs" / (runs[0] if runs else "none")


def _make_model(workdir: Path) -> None:
    import make_llama

    make_llama.CONFIG.update(TINY)
    make_llama.make(workdir / MODEL)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--workdir", type=Path, help="keeps what was not clean; temporary by default")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
