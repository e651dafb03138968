"""What the scheduler promises: parallel where it may be, cached where it can be, whole whatever fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from ingot.artifacts.errors import DataError, IngotError, Interrupted, StageError
from ingot.pipeline import journal
from ingot.pipeline.events import (
    Event,
    NodeFinished,
    NodeStarted,
    Note,
    Progress,
    RunFinished,
    RunStarted,
)
from ingot.pipeline.ledger import Capacity
from ingot.pipeline.local import LocalExecutor
from ingot.pipeline.outcome import Ending, Outcome

if TYPE_CHECKING:
    from types import ModuleType

    from ingot.artifacts.store import Store


class NoExecutor:
    """An executor that fails the test when anything is to be run."""

    def capacity(self) -> Capacity:
        return Capacity(4, 1 << 30)

    def submit(self, job: object, emit: object) -> object:
        raise AssertionError(f"{job} was started")

    def close(self) -> None:
        pass


def states(outcome: Outcome) -> dict[str, str]:
    return {name: str(result.state) for name, result in outcome.results.items()}


def text_of(outcome: Outcome, node: str) -> str:
    artifact = outcome.results[node].artifact
    assert artifact is not None
    return (artifact.path / "text.txt").read_text()


def error_of(outcome: Outcome, node: str) -> IngotError:
    error = outcome.results[node].error
    assert error is not None
    return error


def wait_until(condition: object, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.02)


def test_nodes_run_in_order_and_hand_their_outputs_on(toys: ModuleType, store: Store) -> None:
    outcome = toys.run(
        store,
        toys.node("one", "toy.text", text="left"),
        toys.node("two", "toy.text", text="right"),
        toys.node("both", "toy.join", {"left": "one", "right": "two"}),
    )
    assert states(outcome) == {"one": "built", "two": "built", "both": "built"}
    assert text_of(outcome, "both") == "leftright"


def test_the_record_says_what_was_made_from_what_and_what_it_cost(toys: ModuleType, store: Store) -> None:
    outcome = toys.run(
        store, toys.node("text", "toy.text", text="abc"), toys.node("first", "toy.first", {"text": "text"})
    )
    result = outcome.results["first"]
    action = store.action(result.key)
    assert action is not None
    assert action.output == result.artifact.digest
    assert action.preimage["inputs"] == {"text": outcome.results["text"].artifact.digest}
    observed = action.observed
    assert observed["run"] == outcome.run
    assert observed["started"] < observed["finished"]
    assert 0 < observed["cpu_seconds"] < 30
    assert 0 < observed["seconds"] <= outcome.seconds
    # More than any Python process needs, less than one that imported torch.
    assert 5_000_000 < observed["max_rss_bytes"] < 150_000_000
    assert observed["exit"] == 0
    assert observed["output_bytes"] == 1
    assert observed["tools"]["pytest"] == pytest.__version__
    noted = store.action(outcome.results["text"].key)
    assert noted.observed["notes"] == ["a toy was used"]
    assert noted.observed["stage"]["threads"] == noted.observed["cores"]


def test_peak_memory_is_the_workers_own_and_not_inherited_from_the_driver(
    toys: ModuleType, store: Store
) -> None:
    ballast = bytearray(os.urandom(1 << 20) * 300)
    outcome = toys.run(store, toys.node("text", "toy.text", text="abc"))
    assert outcome.results["text"].max_rss_bytes < 150_000_000 < len(ballast)


def test_a_second_run_starts_no_process_and_keeps_the_notes(toys: ModuleType, store: Store) -> None:
    nodes = (toys.node("text", "toy.text", text="abc"), toys.node("first", "toy.first", {"text": "text"}))
    first = toys.run(store, *nodes)
    second = toys.run(store, *nodes, executor=NoExecutor())
    assert states(second) == {"text": "hit", "first": "hit"}
    assert second.results["text"].notes == first.results["text"].notes == ("a toy was used",)
    assert second.results["first"].seconds == 0
    assert text_of(second, "first") == "a"


def test_a_cached_run_adds_less_than_five_milliseconds_a_node(toys: ModuleType, store: Store) -> None:
    nodes = [toys.node("n0", "toy.text", text="abc")]
    nodes += [toys.node(f"n{i}", "toy.first", {"text": f"n{i - 1}"}) for i in range(1, 3)]
    toys.run(store, *nodes)
    # The same work under many names: all hits, whatever they are called.
    many = [toys.node(f"copy{i}", "toy.text", text="abc") for i in range(100)]
    began = time.process_time()
    outcome = toys.run(store, *many, executor=NoExecutor())
    assert outcome.count(Ending.HIT) == 100
    assert time.process_time() - began < 0.5


def test_an_upstream_change_with_an_equal_output_stops_the_rebuild_below_it(
    toys: ModuleType, store: Store, tmp_path: Path
) -> None:
    trace = str(tmp_path / "trace")

    def chain(text: str) -> Outcome:
        return toys.run(
            store,
            toys.node("text", "toy.text", text=text, trace=trace),
            toys.node("first", "toy.first", {"text": "text"}, trace=trace),
            toys.node("joined", "toy.join", {"left": "first", "right": "first"}, trace=trace),
        )

    chain("apple")
    outcome = chain("avocado")
    assert states(outcome) == {"text": "built", "first": "built", "joined": "hit"}
    assert Path(trace).read_text().split() == ["text", "first", "join", "text", "first"]


def test_independent_branches_run_at_the_same_time(toys: ModuleType, store: Store, tmp_path: Path) -> None:
    outcome = toys.run(
        store,
        toys.node("text", "toy.text", text="go"),
        toys.node("a", "toy.meet", {"text": "text"}, me="a", other="b", place=str(tmp_path)),
        toys.node("b", "toy.meet", {"text": "text"}, me="b", other="a", place=str(tmp_path)),
        executor=LocalExecutor(cores=2),
    )
    assert states(outcome) == {"text": "built", "a": "built", "b": "built"}


def test_an_exclusive_node_runs_beside_no_other_and_gets_every_core(
    toys: ModuleType, store: Store, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    kinds = {"a": "toy.alone", "b": "toy.timed", "c": "toy.alone", "d": "toy.timed"}
    outcome = toys.run(
        store,
        toys.node("text", "toy.text", text="go"),
        *(
            toys.node(name, stage, {"text": "text"}, text=name, trace=str(trace))
            for name, stage in kinds.items()
        ),
        executor=LocalExecutor(cores=4),
    )
    assert outcome.count(Ending.BUILT) == 5
    lines = map(json.loads, trace.read_text().splitlines())
    spans = {name: (began, ended, cores) for name, began, ended, cores in lines}
    for name in ("a", "c"):
        began, ended, cores = spans[name]
        assert cores == 4
        assert all(other[1] <= began or ended <= other[0] for key, other in spans.items() if key != name)
    assert spans["b"][0] < spans["d"][1]
    assert spans["d"][0] < spans["b"][1]


def test_one_failure_blocks_its_descendants_alone(toys: ModuleType, store: Store) -> None:
    outcome = toys.run(
        store,
        toys.node("good", "toy.text", text="good"),
        toys.node("bad", "toy.break", how="ingot error"),
        toys.node("child", "toy.first", {"text": "bad"}),
        toys.node("grandchild", "toy.join", {"left": "good", "right": "child"}),
        toys.node("fine", "toy.first", {"text": "good"}),
    )
    assert states(outcome) == {
        "good": "built", "bad": "failed", "child": "blocked", "grandchild": "blocked", "fine": "built",
    }  # fmt: skip
    error = error_of(outcome, "bad")
    assert isinstance(error, DataError)
    assert (error.what, error.where, error.fix) == ("the text is empty", "data.txt:1", "write something")
    assert outcome.results["grandchild"].reason == "bad failed"
    assert [result.node for result in outcome.failures] == ["bad"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("value error", "ValueError: 7 is not prime enough"),
        ("leave", "SystemExit: enough of this"),
        ("not a result", "returned str where a Result is due"),
        ("odd observation", "is not plain JSON"),
    ],
)
def test_whatever_a_stage_raises_is_one_clear_error(
    toys: ModuleType, store: Store, how: str, says: str
) -> None:
    outcome = toys.run(store, toys.node("bad", "toy.break", how=how))
    error = error_of(outcome, "bad")
    assert isinstance(error, StageError)
    assert says in error.what
    assert "Traceback" not in str(error)
    assert store.digests() == []


def test_a_traceback_goes_to_the_log_that_the_error_names(toys: ModuleType, store: Store) -> None:
    outcome = toys.run(store, toys.node("bad", "toy.break", how="value error"))
    log = outcome.results["bad"].log
    assert str(log) in (error_of(outcome, "bad").fix or "")
    assert "in _value_error" in log.read_text()


@pytest.mark.parametrize(("how", "number"), [("kill", signal.SIGKILL), ("crash", signal.SIGSEGV)])
def test_a_worker_that_dies_fails_alone_and_its_last_words_are_quoted(
    toys: ModuleType, store: Store, how: str, number: int
) -> None:
    outcome = toys.run(
        store, toys.node("dead", "toy.break", how=how), toys.node("alive", "toy.text", text="alive")
    )
    assert states(outcome) == {"dead": "failed", "alive": "built"}
    error = error_of(outcome, "dead")
    assert isinstance(error, StageError)
    assert f"was killed by signal {number:d}" in error.what
    assert {"kill": "the last words", "crash": "string_at"}[how] in error.what
    assert str(outcome.results["dead"].log) in (error.where or "")


@pytest.mark.parametrize("how", ["hog", "hog in child"])
def test_a_stage_above_its_memory_bound_is_ended_with_the_bound_the_use_and_the_fix(
    toys: ModuleType, store: Store, how: str
) -> None:
    outcome = toys.run(
        store,
        toys.node("hog", "toy.break", how=how),
        toys.node("modest", "toy.text", text="modest"),
        executor=LocalExecutor(cores=2, memory_bytes=200_000_000),
    )
    assert states(outcome) == {"hog": "failed", "modest": "built"}
    error = error_of(outcome, "hog")
    assert isinstance(error, StageError)
    assert "200\N{NARROW NO-BREAK SPACE}MB" in error.what
    assert "--memory" in (error.fix or "")
    assert 200_000_000 < outcome.results["hog"].max_rss_bytes < 1_000_000_000


def test_junk_on_standard_output_neither_breaks_nor_forges_events(toys: ModuleType, store: Store) -> None:
    events: list[Event] = []
    outcome = toys.run(store, toys.node("loud", "toy.break", how="chatter"), on_event=events.append)
    assert states(outcome) == {"loud": "built"}
    assert outcome.results["loud"].action.observed["stage"] == {"stdin": ""}
    assert {event.node for event in events if isinstance(event, NodeFinished)} == {"loud"}
    log = outcome.results["loud"].log.read_text()
    assert "forged" in log
    assert log.count("junk from below Python") == 1000
    assert "junk from a child" in log
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1] == Progress("loud", 1000, 1000, "steps")
    assert len(progress) < 100


def test_events_come_in_order_and_the_journal_keeps_what_matters(toys: ModuleType, store: Store) -> None:
    events: list[Event] = []
    threads: set[int] = set()

    def see(event: Event) -> None:
        events.append(event)
        threads.add(threading.get_ident())

    outcome = toys.run(store, toys.node("text", "toy.text", text="abc"), on_event=see)
    kinds = [type(event) for event in events if type(event).__name__ != "Heartbeat"]
    assert kinds == [RunStarted, NodeStarted, Progress, Note, NodeFinished, RunFinished]
    assert threads == {threading.get_ident()}
    kept = [entry.event for entry in journal.read(store.run_dir(outcome.run))]
    assert kept == [event for event in events if type(event) in {*kinds} - {Progress}]


def test_a_worker_gets_only_what_the_allow_list_lets_through(
    toys: ModuleType, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("INGOT_COLOUR", "blue")
    outcome = toys.run(store, toys.node("environment", "toy.environment"), executor=LocalExecutor(cores=3))
    seen = json.loads(text_of(outcome, "environment"))
    assert "hunter2" not in json.dumps(seen)
    assert seen["INGOT_COLOUR"] == "blue"
    assert seen["OMP_NUM_THREADS"] == "3"
    assert (seen["PYTHONHASHSEED"], seen["HF_HUB_OFFLINE"]) == ("0", "1")
    assert seen["ORT_DISABLE_TELEMETRY"] == "1"
    assert Path(seen["cwd"]).is_relative_to(store.root)


def test_a_killed_stage_goes_on_where_it_stood_when_the_run_is_repeated(
    toys: ModuleType, store: Store
) -> None:
    node = toys.node("long", "toy.resume")
    assert states(toys.run(store, node)) == {"long": "failed"}
    outcome = toys.run(store, node)
    assert states(outcome) == {"long": "built"}
    assert text_of(outcome, "long") == "half done, then the rest"
    assert list((store.root / "jobs").iterdir()) == []


def test_an_output_that_vanished_from_the_store_is_built_again(toys: ModuleType, store: Store) -> None:
    nodes = (toys.node("text", "toy.text", text="abc"), toys.node("first", "toy.first", {"text": "text"}))
    tree = toys.run(store, *nodes).results["text"].artifact.path.parent
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(tree)
    assert states(toys.run(store, *nodes)) == {"text": "built", "first": "hit"}


@pytest.mark.parametrize("label", ["publish.sealed", "publish.renamed", "publish.remembered"])
def test_a_worker_killed_while_it_publishes_leaves_a_store_that_the_next_run_completes(
    toys: ModuleType, store: Store, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    node = toys.node("text", "toy.text", text="abc")
    with monkeypatch.context() as patch:
        patch.setenv("INGOT_FAULT", label)
        assert states(toys.run(store, node)) == {"text": "failed"}
    outcome = toys.run(store, node)
    assert states(outcome) == {"text": "built"}
    assert store.digests() == [outcome.results["text"].artifact.digest]


def test_two_runs_racing_on_one_store_do_the_work_once_and_both_succeed(
    toys: ModuleType, store: Store, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    nodes = [
        ["text", "toy.text", {}, {"text": "abc", "trace": str(trace)}],
        ["first", "toy.first", {"text": "text"}, {"trace": str(trace)}],
    ]
    command = [sys.executable, "-m", "ingot_toy.driver", str(store.root), json.dumps(nodes)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [json.loads(racer.communicate(timeout=120)[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert sorted(trace.read_text().split()) == ["first", "text"]
    for name in ("text", "first"):
        assert sorted(end[name] for end in ends) == ["built", "hit", "hit"]


def start_staying(store: Store, trace: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A driver in a process of its own, and the ids of its worker and of the worker's child."""
    nodes = [
        ["text", "toy.text", {}, {"text": "abc"}],
        ["stay", "toy.stay", {}, {"trace": str(trace)}],
    ]
    command = [sys.executable, "-m", "ingot_toy.driver", str(store.root), json.dumps(nodes)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: trace.exists() and trace.read_text().endswith("\n"))
    wait_until(lambda: len(store.digests()) == 1 and any((store.root / "actions").glob("*.json")))
    return driver, json.loads(trace.read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_process_and_the_next_run_resumes(
    toys: ModuleType, store: Store, tmp_path: Path, number: signal.Signals
) -> None:
    driver, processes = start_staying(store, tmp_path / "trace")
    driver.send_signal(number)
    driver.communicate(timeout=60)
    assert driver.returncode == 130
    wait_until(lambda: not any(map(psutil.pid_exists, processes)), seconds=10)
    last = journal.read(store.run_dir(store.runs()[0]))[-1].event
    assert isinstance(last, RunFinished)
    assert last.state == "interrupted"
    assert states(toys.run(store, toys.node("text", "toy.text", text="abc"))) == {"text": "hit"}
    store.open(store.root)
    assert list((store.root / "tmp").iterdir()) == []


def test_no_worker_outlives_a_driver_that_was_killed(toys: ModuleType, store: Store, tmp_path: Path) -> None:
    driver, processes = start_staying(store, tmp_path / "trace")
    driver.kill()
    driver.communicate(timeout=60)
    wait_until(lambda: not any(map(psutil.pid_exists, processes)), seconds=10)
    assert states(toys.run(store, toys.node("text", "toy.text", text="abc"))) == {"text": "hit"}


def test_an_interrupt_in_the_callback_leaves_as_interrupted(toys: ModuleType, store: Store) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, NodeStarted):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="run the same command again"):
        toys.run(store, toys.node("slow", "toy.break", how="slow"), on_event=interrupt)


def test_a_broken_callback_leaves_no_process_behind(toys: ModuleType, store: Store, tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    def fail(event: Event) -> None:
        if isinstance(event, NodeStarted):
            wait_until(lambda: trace.exists() and trace.read_text().endswith("\n"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        toys.run(store, toys.node("stay", "toy.stay", trace=str(trace)), on_event=fail)
    processes = json.loads(trace.read_text())
    wait_until(lambda: not any(map(psutil.pid_exists, processes)), seconds=10)


def test_a_process_that_cannot_be_started_is_a_failed_node(
    toys: ModuleType, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    outcome = toys.run(store, toys.node("text", "toy.text", text="abc"))
    error = error_of(outcome, "text")
    assert "no process could be started for text" in error.what
    assert error.where == "/nowhere/python"


def test_an_error_while_deciding_fails_that_node_alone(toys: ModuleType, store: Store) -> None:
    from ingot.pipeline.execute import execute

    decide = toys.decider(store)

    def picky(node: object, inputs: object) -> object:
        if node.name == "bad":
            raise DataError("the file changed while it was read", where="data.txt")
        return decide(node, inputs)

    nodes = (toys.node("bad", "toy.text", text="a"), toys.node("good", "toy.text", text="b"))
    with journal.Journal.create(store.run_dir("1"), {}) as log:
        outcome = execute(
            toys.graph_of(*nodes), decide=picky, store=store, executor=LocalExecutor(), journal=log
        )
    assert states(outcome) == {"bad": "failed", "good": "built"}
