"""The worker as a process on its own, spoken to only through its files, its pipes and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from ingot.artifacts.errors import Interrupted, RecipeError, StageError
from ingot.artifacts.store import Store
from ingot.pipeline import events, memory
from ingot.pipeline.environment import child_environment
from ingot.pipeline.job import Job, JobResult
from ingot.pipeline.local import LocalExecutor
from ingot.stages import base

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType


def job(store: Store, stage: str, inputs: Mapping[str, str] | None = None, **params: object) -> Job:
    directory = store.job_dir("k" * 64)
    made = Job(
        "node", stage, params, inputs or {}, "k" * 64, store.root, directory, directory / "log", 0, 1, 10**9
    )
    made.write()
    return made


def start(made: Job) -> subprocess.Popen[bytes]:
    with made.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ingot.pipeline.worker", str(made.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )


def finish(worker: subprocess.Popen[bytes]) -> list[events.Event]:
    """The worker's events, when it has ended; its standard input stays open until then."""
    assert worker.stdout is not None
    assert worker.stdin is not None
    with worker.stdout, worker.stdin:
        lines = worker.stdout.readlines()
        worker.wait(timeout=60)
    return [events.decode(line) for line in lines]


def test_a_job_and_a_result_survive_their_files(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    made = job(store, "toy.text", {"text": "a" * 64}, text="é", factor=0.1)
    assert Job.read(made.directory) == made
    result = JobResult("d" * 64, None, {"layers": [1, 2]}, ("note",), {"torch": "2"}, 17)
    result.write(made.directory)
    assert JobResult.read(made.directory) == result
    broken = JobResult(None, StageError("what", where="here", fix="that"))
    broken.write(made.directory)
    read = JobResult.read(made.directory)
    assert read is not None
    assert repr(read.error) == repr(broken.error)
    assert str(read.error) == "what (here): that"
    made.write()
    assert JobResult.read(made.directory) is None


def test_a_worker_answers_with_an_artifact_and_events_alone_on_its_standard_output(
    toys: ModuleType, store: Store
) -> None:
    made = job(store, "toy.text", text="abc")
    worker = start(made)
    seen = finish(worker)
    assert worker.returncode == 0
    result = JobResult.read(made.directory)
    assert result is not None
    artifact = store.artifact(str(result.artifact))
    assert artifact is not None
    assert (artifact.path / "text.txt").read_text() == "abc"
    assert artifact.facts == {"length": 3}
    assert [event for event in seen if not isinstance(event, events.Heartbeat)] == [
        events.Progress("node", 1, 1, "texts"),
        events.Note("node", "a toy was used"),
    ]


def test_a_failure_is_answered_and_told_by_the_exit_status(toys: ModuleType, store: Store) -> None:
    made = job(store, "toy.break", how="value error")
    worker = start(made)
    finish(worker)
    assert worker.returncode == 1
    result = JobResult.read(made.directory)
    assert result is not None
    assert result.artifact is None
    assert isinstance(result.error, StageError)


def test_an_unknown_parameter_or_stage_is_answered_with_its_name(toys: ModuleType, store: Store) -> None:
    for stage, params, says in (("toy.text", {"txt": "a"}, "node.txt"), ("toy.texts", {}, "toy.texts")):
        made = job(store, stage, **params)
        finish(start(made))
        result = JobResult.read(made.directory)
        assert result is not None
        assert says in str(result.error)


def test_an_input_that_is_gone_is_named(toys: ModuleType, store: Store) -> None:
    made = job(store, "toy.first", {"text": "a" * 64})
    finish(start(made))
    result = JobResult.read(made.directory)
    assert result is not None
    assert "'text' (aaaaaaaaaaaa) is no longer in the store" in str(result.error)


def test_a_heartbeat_comes_every_second_and_says_what_is_held(toys: ModuleType, store: Store) -> None:
    began = time.monotonic()
    beats = finish(start(job(store, "toy.break", how="slow")))
    assert 2 <= len(beats) <= time.monotonic() - began + 1
    assert all(isinstance(beat, events.Heartbeat) and 5e6 < beat.rss_bytes < 2e8 for beat in beats)


def test_the_end_of_standard_input_ends_the_worker_and_what_it_started(
    toys: ModuleType, store: Store, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    worker = start(job(store, "toy.stay", trace=str(trace)))
    limit = time.monotonic() + 30
    while not (trace.exists() and trace.read_text().endswith("\n")):
        assert time.monotonic() < limit
        time.sleep(0.02)
    _, child = json.loads(trace.read_text())
    assert psutil.pid_exists(child)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(timeout=10) == -9
    while psutil.pid_exists(child):
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert worker.stdout is not None
    worker.stdout.close()


def test_a_worker_asks_to_be_the_first_when_memory_runs_out(
    toys: ModuleType, store: Store, tmp_path: Path
) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux is asked")
    trace = tmp_path / "trace"
    worker = start(job(store, "toy.stay", trace=str(trace)))
    while not trace.exists():
        time.sleep(0.02)
    assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text().strip() == "1000"
    worker.communicate()


def test_a_closed_executor_starts_nothing(toys: ModuleType, store: Store) -> None:
    executor = LocalExecutor(memory_bytes=10**9)
    executor.close()
    with pytest.raises(Interrupted):
        executor.submit(job(store, "toy.text"), lambda _event: None)


def test_the_environment_of_a_worker_is_the_allow_list_and_nothing_else() -> None:
    ours = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "GITHUB_TOKEN": "secret",
        "PYTHONHASHSEED": "7",
        "LD_PRELOAD": "x.so",
    }
    made = child_environment(ours, threads=2)
    assert made["PATH"] == "/bin"
    assert made["LC_ALL"] == "C"
    assert made["PYTHONHASHSEED"] == "0"
    assert made["MKL_NUM_THREADS"] == "2"
    assert not {"GITHUB_TOKEN", "LD_PRELOAD"} & made.keys()


def test_mapped_files_do_not_count_as_held_and_written_memory_does(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("other systems cannot tell the two apart")
    size_bytes = 64 << 20
    (tmp_path / "weights").write_bytes(b"\1" * size_bytes)
    code = (
        "import mmap, sys\n"
        f"stream = open({str(tmp_path / 'weights')!r}, 'rb')\n"
        "mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "sum(mapped[:: 4096])\n"
        "print('mapped', flush=True); sys.stdin.readline()\n"
        f"held = bytearray({size_bytes}); held[::4096] = b'1' * len(held[::4096])\n"
        "print('held', flush=True); sys.stdin.readline()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "mapped\n"
        assert psutil.Process(process.pid).memory_info().rss > size_bytes
        mapped = memory.held_bytes(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "held\n"
        held = memory.held_bytes(process.pid)
    assert mapped < size_bytes / 2
    assert size_bytes <= held - mapped < 1.5 * size_bytes


def test_the_default_bound_leaves_the_machine_some_of_its_free_memory() -> None:
    free = psutil.virtual_memory().available
    assert 0 < memory.default_bound() < free
    assert memory.held_bytes(os.getpid()) > memory.own_bytes(os.getpid()) / 2


def test_a_stage_is_found_where_it_is_said_to_be_or_among_all_that_is_installed(
    toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = base.get("toy.text")
    assert base.get("toy.text", "ingot.pipeline.job") is found
    monkeypatch.setattr(base, "entry_points", lambda _group: ())
    assert base.get("toy.text", found.module) is found
    with pytest.raises(RecipeError, match=r"no stage 'toy\.text'"):
        base.get("toy.text")
