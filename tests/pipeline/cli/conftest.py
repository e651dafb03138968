"""The command line as a person meets it: run as a process or in this one, and tiny builds to run it on."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

WORDS = [
    "the", "river", "ran", "past", "old", "mill", "and", "house", "town", "market", "smith", "nails", "hooks",
    "hinges", "doors", "winter", "ice", "April", "water", "rose", "feet", "boat",
]  # fmt: skip
DOCUMENTS = 24
MEASURE = "measure: {cost: {repeats: 1, passes: 1, prefill_tokens: 8, decode_tokens: 2}}\n"
# Random weights decide nothing about perplexity, but the pipeline's arithmetic must hold to the last digits.
TARGETS = "targets: {cpu-int8: , cpu-int4: , cpu-fp32: {gates: {parity_max_error: {max: 1.0e-4}}}}\n"


@functools.cache
def bench_kills() -> ModuleType:
    """The benchmark that kills runs, whose measures of what is left over the tests share."""
    path = Path(__file__).parents[2] / "bench" / "bench_kills.py"
    spec = importlib.util.spec_from_file_location("ingot_bench_kills", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def refuses(self, *words: str) -> None:
        """Asserts one clear error of exit code 2 that says all of ``words``, and no traceback."""
        assert self.code == 2, self
        assert self.err.count("error:") == 1, self.err
        assert "Traceback" not in self.out + self.err
        told = self.err[self.err.index("error:") :]
        for word in words:
            assert word in told, told


@dataclass(frozen=True)
class Ingot:
    """Runs `python -m ingot` in a directory of its own."""

    directory: Path
    prefix: tuple[str, ...] = (sys.executable, "-P", "-m", "ingot")

    def by(self, *prefix: str) -> Ingot:
        """The same, started by other words, to which the command line is added."""
        return replace(self, prefix=prefix)

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """A command that is under way."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("INGOT_")}
        return subprocess.Popen(
            [*self.prefix, *map(str, arguments)],
            cwd=self.directory,
            env={**inherited, "GITHUB_STEP_SUMMARY": "", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: object, **environment: str) -> Ended:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=240)
        return Ended(process.returncode, out, err)


@dataclass(frozen=True)
class Workplace:
    """A directory with a recipe `ingot.yaml`, its texts, a store `st` and deliveries in `out`."""

    directory: Path

    @property
    def ingot(self) -> Ingot:
        return Ingot(self.directory)

    @property
    def store(self) -> Any:
        from ingot.artifacts.store import Store

        return Store.open(self.directory / "st")

    def run(self, *arguments: str, **environment: str) -> Ended:
        return self.ingot(*self.command, *arguments, **environment)

    def run_here(self, executor: type) -> Ended:
        """The same in this process, where an executor of that class builds the nodes."""
        from ingot.pipeline.cli import main

        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ingot.pipeline.run.LocalExecutor", executor)
            patch.chdir(self.directory)
            patch.setenv("GITHUB_STEP_SUMMARY", "")
            for name in [name for name in os.environ if name.startswith("INGOT_")]:
                patch.delenv(name)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                with pytest.raises(SystemExit) as ended:
                    main(list(self.command))
                out.flush(), err.flush()
        signal.signal(signal.SIGTERM, handler)
        told, progress = (stream.buffer.getvalue().decode() for stream in (out, err))
        return Ended(int(ended.value.code or 0), told, progress)

    @property
    def command(self) -> tuple[str, ...]:
        return ("run", "ingot.yaml", "--store", "st", "--out", "out", "--json")

    def plan(self) -> dict[str, Any]:
        """`ingot plan --json` by node."""
        ended = self.ingot("plan", "ingot.yaml", "--store", "st", "--json")
        assert ended.code == 0, ended.err
        return {node["name"]: node for node in ended.json["nodes"]}

    def events(self, kind: str, run: str | None = None) -> list[dict[str, Any]]:
        """The events of one kind in the journal of a run, the newest by default."""
        journal = self.store.root / "runs" / (run or self.store.runs()[0]) / "events.jsonl"
        found = (json.loads(line) for line in journal.read_text().splitlines())
        return [event for event in found if event["event"] == kind]

    def states(self, run: str | None = None) -> dict[str, str]:
        """How every node ended in a run."""
        return {event["node"]: event["state"] for event in self.events("node_finished", run)}

    def started(self) -> list[str]:
        """The nodes for which the newest run started a process."""
        return [event["node"] for event in self.events("node_started")]

    def outputs(self) -> dict[str, str]:
        """The digests of what every node made, by the newest run; all of them must be in the store."""
        found = {event["node"]: event["artifact"] for event in self.events("node_finished")}
        assert set(found.values()) <= set(self.store.digests())
        return found

    def artifact(self, node: str) -> Path:
        """The directory of what a node made."""
        return self.store.trees / self.outputs()[node]

    def forget(self, *nodes: str) -> None:
        """Takes what the nodes made, and the record of it, out of the store, as if it had never been."""
        from ingot.artifacts.files import remove_tree

        kept = {action.output for action in self.store.actions() if action.node not in nodes}
        for action in list(self.store.actions()):
            if action.node in nodes:
                (self.store.root / "actions" / f"{action.key}.json").unlink()
                if action.output not in kept:
                    remove_tree(self.store.trees / action.output)
                    self.store.stat_entry(action.output).unlink(missing_ok=True)

    def flip(self, node: str, file: str) -> str:
        """Changes a byte of what a node made, in place and with its time put back; the artifact's digest."""
        digest = self.outputs()[node]
        path = self.store.trees / digest / "payload" / file
        status = path.stat()
        path.chmod(0o644)
        with path.open("r+b") as stream:
            stream.seek(status.st_size // 2)
            (byte,) = stream.read(1)
            stream.seek(status.st_size // 2)
            stream.write(bytes([byte ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return digest

    def workers(self) -> list[int]:
        """The processes that run stages of this store, by id."""
        jobs = str(self.directory / "st" / "jobs")
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:  # it ended meanwhile
                    continue
                if any(word.decode(errors="replace").startswith(jobs) for word in words):
                    found.append(int(entry.name))
        return found

    def await_worker(self, process: subprocess.Popen[str]) -> int:
        """The id of the first process that runs a stage of this store."""
        while process.poll() is None:
            found = self.workers()
            if found:
                return found[0]
            time.sleep(0.005)
        raise AssertionError(f"no stage was started: {process.communicate()}")

    def await_silence(self) -> None:
        """Waits until no process runs a stage of this store."""
        ends = time.monotonic() + 10
        while self.workers():
            assert time.monotonic() < ends, "a worker outlived its driver"
            time.sleep(0.02)

    def is_clean(self) -> None:
        """Asserts that the store is sound, and nothing half-written lies in it or among the deliveries."""
        report = self.store.verify()
        assert report.sound, report
        assert list((self.store.root / "tmp").iterdir()) == []
        assert list((self.directory / "out").glob(".*")) == []

    def leaves_nothing(self) -> None:
        """Asserts that `ingot gc` leaves no file that the runs and the layout do not account for."""
        ended = self.ingot("gc", "--store", "st")
        assert ended.code == 0, ended
        bench = bench_kills()
        (self.directory / "tmp").mkdir(exist_ok=True)
        assert bench.orphans(bench.Place(self.directory, "st")) == []


@pytest.fixture
def ingot(tmp_path: Path) -> Ingot:
    """The command line in an empty directory."""
    return Ingot(tmp_path)


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """The command line inside this process, in an empty directory."""
    from ingot.pipeline.cli import main

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("INGOT_")]:
        monkeypatch.delenv(name)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Ended(int(ended.value.code or 0), told.out, told.err)

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def held_out() -> str:
    """Documents of a few hundred tokens each, for the tiny models of `tiny_checkpoint`."""
    chosen = random.Random(20)
    documents = (" ".join(chosen.choices(WORDS, k=90)) + "." for _ in range(DOCUMENTS))
    return "\n<|endoftext|>\n".join(documents)


@pytest.fixture
def model(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint called `model` that a test may break."""
    return shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model")


@pytest.fixture
def text(held_out: str, tmp_path: Path) -> Path:
    (tmp_path / "held-out.txt").write_text(held_out)
    return tmp_path / "held-out.txt"


@pytest.fixture(scope="session")
def built(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Callable[..., Path],
    held_out: str,
    one_process_executor: type,
) -> Callable[[str], tuple[Workplace, Ended]]:
    """A factory: the workplace of a family's three targets, built once a session, and how that ended.

    Workers build the tiny Llama's, this process those of the other families.  Copy it (see `workplace`) to
    change anything in it.
    """
    made: dict[str, tuple[Workplace, Ended]] = {}

    def build(family: str) -> tuple[Workplace, Ended]:
        if family not in made:
            directory = tmp_path_factory.mktemp(f"built-{family}")
            (directory / "held-out.txt").write_text(held_out)
            gates = "" if family == "bert" else "gates: {perplexity: {max_increase: 50%}}\n"
            (directory / "ingot.yaml").write_text(
                f"model: {tiny_checkpoint(family)}\n{TARGETS}data: {{evaluation: held-out.txt}}\n"
                f"{MEASURE}{gates}"
            )
            workplace = Workplace(directory)
            ended = workplace.run() if family == "llama" else workplace.run_here(one_process_executor)
            made[family] = workplace, ended
        return made[family]

    return build


@pytest.fixture
def workplace(built: Callable[[str], tuple[Workplace, Ended]], tmp_path: Path) -> Workplace:
    """A copy of the tiny Llama's build, to be damaged, interrupted and changed."""
    original, ended = built("llama")
    assert ended.code == 0, ended
    shutil.copytree(original.directory, tmp_path / "w")
    return Workplace(tmp_path / "w")
