"""Stages whose work is known to the last millisecond, to measure what the scheduler adds to it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ingot.artifacts.schema import param
from ingot.stages.base import Context, Result, stage

KIND = "text"
BLOCK = b"x" * 65536


@dataclass(frozen=True)
class TextParams:
    """Parameters of `bench.text`."""

    text: str = param("", doc="what to write")


@dataclass(frozen=True)
class WorkParams:
    """Parameters of `bench.work`."""

    label: str = param("", doc="what tells its work from that of others")
    wait_seconds: float = param(0.0, minimum=0.0, doc="how long it sleeps")
    burn_seconds: float = param(
        0.0, minimum=0.0, doc="the work it does, in seconds of a core that is its own"
    )


@stage(
    "bench.text",
    params=TextParams,
    inputs={},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Writes a text: next to nothing.",
)
def text(context: Context[TextParams]) -> Result:
    """The least that a stage can do."""
    context.output.write_text("text.txt", context.params.text)
    return Result({})


@stage(
    "bench.work",
    params=WorkParams,
    inputs={"after": (KIND,)},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Sleeps, then keeps one core busy.",
)
def work(context: Context[WorkParams]) -> Result:
    """Waits, then burns seconds of processor time, however long that takes."""
    time.sleep(context.params.wait_seconds)
    began = time.thread_time()
    while time.thread_time() - began < context.params.burn_seconds:
        BLOCK.translate(None)
    context.output.write_text("text.txt", context.params.label)
    return Result({})
