"""One training in several processes of this machine: each runs the stage up to its training, and shares that.

The stage's own process is the first of them and the only one that writes. The others get what it was given,
build the same network, and end when the training does. They talk through torch.distributed, gloo on
processors and NCCL on GPUs, as under `torchrun`: whoever launches a training so is left alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import StageError
from ...artifacts.manifest import Artifact
from ..base import Context, Stage
from .params import RANK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.process import BaseProcess
    from multiprocessing.synchronize import Semaphore

HELPER = "INGOT_TRAINING_HELPER"
# How long the others may take to end once the training is over, in seconds.
PATIENCE = 60
# How often it is looked whether they are still there, in seconds.
POLL = 0.2
# In a helper: what it tells that it is about to join.
_arrived: list[Semaphore] = []


@dataclass(frozen=True)
class _Given:
    """What a helper needs of its stage's context."""

    params: Any
    inputs: Mapping[str, Artifact]
    job: Path
    seed: int
    threads: int


@contextlib.contextmanager
def together(context: Context[Any]) -> Iterator[None]:
    """Has the helpers that the parameters ask for join what is done inside; raises StageError where one of
    them fails.
    """
    count = context.params.processes
    if count == 1 or RANK in os.environ:
        for each in _arrived:
            each.release()
        yield
        return
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count)}
    # Where it is not set, accelerate chooses a number of threads, with a warning.
    variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, context.threads // count)))
    given = _Given(context.params, dict(context.inputs), context.job, context.seed, context.threads)
    spawn = multiprocessing.get_context("spawn")
    arrived = spawn.Semaphore(0)
    helpers = [
        spawn.Process(target=_help, args=(given, {**variables, **_ranks(rank)}, arrived), daemon=True)
        for rank in range(1, count)
    ]
    before, patience = dict(os.environ), 0
    for helper in helpers:
        helper.start()
    try:
        _await(helpers, arrived)
        _enter({**variables, **_ranks(0)})
        yield
        patience = PATIENCE
    except RuntimeError as error:
        for helper in helpers:
            helper.join(1)  # one that is gone may not have been waited for
        if (ended := _ended(helpers)) is not None:
            raise _lost(ended) from error
        raise
    finally:
        for helper in helpers:
            helper.join(patience)
            helper.kill()
        _leave()
        os.environ.clear()
        os.environ.update(before)


def _await(helpers: Sequence[BaseProcess], arrived: Semaphore) -> None:
    """Waits until all helpers are about to join: whoever joins first waits for the others without looking."""
    for _ in helpers:
        while not arrived.acquire(timeout=POLL):
            if (ended := _ended(helpers)) is not None:
                raise _lost(ended)


def _ended(helpers: Sequence[BaseProcess]) -> int | None:
    return next((helper.exitcode for helper in helpers if helper.exitcode is not None), None)


def _lost(status: int) -> StageError:
    what = f"a process of the training ended with status {status}; the log says why"
    return StageError(what, fix="lower processes, or look at its error")


def leave_if_helper() -> None:
    """Ends a helper, whose training is over."""
    if HELPER in os.environ:
        _leave()
        sys.exit(0)


def own_name(name: str) -> str:
    """The name of what each process keeps for itself in the directory that all share."""
    return f"{name}-{os.environ[RANK]}" if os.environ.get(RANK, "0") != "0" else name


def _help(given: _Given, variables: Mapping[str, str], arrived: Semaphore) -> None:
    """Runs the stage in a helper: it ends with the training, and has no output."""
    _arrived.append(arrived)
    _enter({**variables, HELPER: "1"})
    module = sys.modules[type(given.params).__module__]
    stage = next(
        each
        for each in vars(module).values()
        if isinstance(each, Stage) and each.params is type(given.params)
    )
    output: Any = None
    stage.run(
        Context(
            given.params, given.inputs, output, given.job, given.seed, given.threads,
            lambda _done, _total, _what: None, lambda _text: None,
        )
    )  # fmt: skip


def _enter(variables: Mapping[str, str]) -> None:
    import torch

    _reset()
    os.environ.update(variables)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(variables["LOCAL_RANK"]))


def _leave() -> None:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    _reset()


def _reset() -> None:
    """Has accelerate look at the environment again: it does so once a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - there is no other way


def _ranks(rank: int) -> dict[str, str]:
    return {RANK: str(rank), "LOCAL_RANK": str(rank)}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
