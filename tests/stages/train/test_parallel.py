"""A training that is spread over processes: copies or shares, the gradients, steps and records of one."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
import os
import runpy
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from ingot.artifacts.errors import RecipeError
from ingot.artifacts.schema import build
from ingot.artifacts.tensors import TensorSource
from ingot.stages.train.params import TrainParams

from ..conftest import TEXT

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import sys, torch
from pathlib import Path
from ingot.artifacts.schema import build
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.train.hooks import Hook
from ingot.stages.train.network import Network
from ingot.stages.train.objective import NextToken
from ingot.stages.train.parallel import whole
from ingot.stages.train.params import TrainParams
from ingot.stages.train.text import read_corpus
from ingot.stages.train.trainer import Setup, train

model, text, job = map(Path, sys.argv[1:4])
parallel, stop = sys.argv[4], int(sys.argv[5])
params = build(TrainParams, {"training_text": str(text), "window": 16, "batch_size": 4, "steps": 4,
                             "accumulation": 2, "evaluate_every": 1, "learning_rate": 3e-3,
                             "ema_decay": 0.5, "parallel": parallel})
source = Checkpoint.open(model)
network = Network.load(source)

class Watch(Hook):
    def begins(self, current):
        self.now = {name: current(each) for name, each in network.module.named_parameters()}

    def gradients(self, step):
        if step == 0:
            found = {name: whole(each.grad) for name, each in self.now.items()}
            held = sum(getattr(each, "to_local", lambda: each)().numel() for each in self.now.values())
            torch.save((found, held), job / "gradients.pt")

    def stepped(self, done):
        if done == stop:
            sys.exit(17)

corpus = read_corpus(source, params, print)
# Four measurements of an odd number of batches: processes have unequally many.
history = train(Setup(network.module, NextToken(), corpus, params, job, "x", hooks=(Watch(),),
                      progress=lambda done, *_: print("step", done, flush=True)))
assert history.best > 0
torch.save((dict(network.module.state_dict()), history.selection), job / "end.pt")
"""


# What the training imports: a server has it loaded, from which its processes are forked.
LOADED = [
    "ingot.stages.train.trainer",
    "ingot.stages.train.network",
    "transformers.models.llama.modeling_llama",
]
RANK = """
import os, runpy, sys
os.environ.update(environment)
told = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(told, 1), os.dup2(told, 2)
sys.argv = arguments
runpy.run_path(arguments[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def launch(tiny_checkpoint, tmp_path_factory):
    """``(job, processes, parallel, stop=0) -> (exit status, output, directory)`` of a training by itself.

    PyTorch's launcher starts the copies of a network; the others differ in their environment alone.
    """
    directory = tmp_path_factory.mktemp("parallel")
    script, rank, text = directory / "training.py", directory / "rank.py", directory / "train.txt"
    script.write_text(SCRIPT)
    rank.write_text(RANK)
    words = TEXT.split()
    parts = [" ".join(words[(start + 3 * at) % len(words)] for at in range(60)) for start in range(20)]
    text.write_text("\n<|endoftext|>\n".join(parts))
    shared = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(LOADED)

    def forked(arguments: list[str], output: Path, processes: int) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        ranks = []
        for number in range(processes):
            own = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(processes)}
            environment = {**shared, **(own | place if processes > 1 else {})}
            given = {"environment": environment, "arguments": arguments, "output": str(output)}
            ranks.append(
                server.Process(target=runpy.run_path, args=(str(rank),), kwargs={"init_globals": given})
            )
            ranks[-1].start()
        # The first to end with an error ends the others, as PyTorch's launcher does.
        waiting = list(ranks)
        while waiting:
            assert multiprocessing.connection.wait([each.sentinel for each in waiting], timeout=280), (
                "too long"
            )
            waiting = [each for each in waiting if each.is_alive()]
            if any(each.exitcode for each in ranks):
                for each in waiting:
                    each.kill()
        return next((each.exitcode for each in ranks if each.exitcode), 0)

    @functools.cache
    def go(job: str, processes: int, parallel: str, stop: int = 0) -> tuple[int, str, Path]:
        (directory / job).mkdir(exist_ok=True)
        arguments = [script, tiny_checkpoint("llama"), text, directory / job, parallel, stop]
        arguments = [str(each) for each in arguments]
        if processes > 1 and parallel == "ddp":
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command = [*launcher, f"--nproc-per-node={processes}", *arguments]
            environment = {**os.environ, **shared}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
            return done.returncode, done.stdout + done.stderr, directory / job
        output = directory / f"{job}-{processes}-{stop}.log"
        status = forked(arguments, output, processes)
        return status, output.read_text(), directory / job

    return go


def finished(launched: tuple[int, str, Path]) -> Path:
    status, output, directory = launched
    assert status == 0, output[-3000:]
    return directory


def assert_alike(one: Path, other: Path, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Whether two trainings ended with the same weights by way of the same measurements."""
    (expected, losses), (found, others) = (torch.load(each / "end.pt") for each in (one, other))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol)
    assert [loss for _, loss in others] == pytest.approx([loss for _, loss in losses], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_take_the_steps_of_one(launch, parallel):
    one, two = finished(launch("one", 1, "ddp")), finished(launch(parallel, 2, parallel))
    (alone, size), (shared, held) = (torch.load(each / "gradients.pt") for each in (one, two))
    # Of shares, each process holds about the half; rows of odd numbers are one more in the first.
    assert held == size if parallel == "ddp" else 0.5 * size <= held <= 0.6 * size
    for name, value in alone.items():
        assert float((value - shared[name]).norm()) <= 1e-5 * float(value.norm()), name
    assert_alike(one, two)


@pytest.mark.slow
def test_a_training_in_shares_that_was_killed_goes_on_exactly_and_by_one_process_too(launch):
    whole = finished(launch("fsdp", 2, "fsdp"))
    status, _, killed = launch("killed", 2, "fsdp", stop=3)
    assert status != 0
    assert not (killed / "end.pt").exists()
    shutil.copytree(killed, killed.with_name("alone"))
    for job, processes, parallel in (("killed", 2, "fsdp"), ("alone", 1, "ddp")):
        again = launch(job, processes, parallel)
        assert "step 3" in again[1]
        assert "step 2" not in again[1]
        exact = {"rtol": 0.0, "atol": 0.0} if processes == 2 else {}
        assert_alike(whole, finished(again), **exact)


LEARN = {"window": 16, "batch_size": 4, "steps": 4, "evaluate_every": 2, "learning_rate": 3e-3}
STAGES = {
    "finetune.lora": {"rank": 2},
    "distill": {"teacher": "teacher", "hidden": 1.0},
    "prune.gradual": {"pattern": "2:4", "prune_every": 1},
    "quantize.qat": {"bits": 4, "group_size": 0, "sym": False, "learn_zeros": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_that_trains_writes_in_shares_what_one_process_does(
    name, tiny_checkpoint, text_file, run_stage
):
    inputs = {"model": tiny_checkpoint("llama")}
    if name == "distill":
        inputs["teacher"] = tiny_checkpoint("qwen2")
    options = {"training_text": str(text_file), **STAGES[name], **LEARN}
    one = run_stage(name, inputs, **options)
    two = run_stage(name, inputs, processes=2, parallel="fsdp", **options)
    assert one.facts["trained_steps"] == two.facts["trained_steps"] > 0
    before, after = (TensorSource.open([each.path / "model.safetensors"]) for each in (one, two))
    assert before.names() == after.names()
    for tensor in before.names():
        expected, found = before.array(tensor), after.array(tensor)
        if before.info(tensor).dtype == "U8":
            assert (expected != found).mean() < 0.01  # at the middle between two codes
        else:
            assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected), tensor


def test_shares_for_one_process_are_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RecipeError, match="fsdp has no effect on one process"):
        build(TrainParams, {"training_text": "t", "parallel": "fsdp"})
    assert build(TrainParams, {"training_text": "t", "parallel": "fsdp", "processes": 2}).parallel == "fsdp"
