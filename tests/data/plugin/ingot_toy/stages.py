"""Stages whose output is one file of text, and stages that break in every way that stages break."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.artifacts.errors import DataError
from ingot.artifacts.schema import param
from ingot.stages.base import Context, Result, stage

if TYPE_CHECKING:
    from collections.abc import Callable

KIND = "text"
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class TextParams:
    text: str = param("", doc="what to write")
    trace: str = param("", doc="a file that gets a line whenever the stage really runs", in_key=False)


@dataclass(frozen=True)
class MeetParams:
    me: str = param("", doc="who we are")
    other: str = param("", doc="whom we wait for")
    place: str = param("", doc="the directory where both leave a file", in_key=False)


@dataclass(frozen=True)
class BreakParams:
    how: str = param("", doc="one of WAYS")


def leave_trace(path: str, line: str) -> None:
    if path:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError("it never came")
        time.sleep(0.01)


def finish(context: Context[object], text: str, **observed: object) -> Result:
    context.output.write_text("text.txt", text)
    return Result(facts={"length": len(text)}, observed=observed)


def text_of(context: Context[object], name: str) -> str:
    return (context.inputs[name].path / "text.txt").read_text(encoding="utf-8")


@stage(
    "toy.text",
    params=TextParams,
    inputs={},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Writes its text.",
)
def text(context: Context[TextParams]) -> Result:
    leave_trace(context.params.trace, "text")
    context.progress(1, 1, "texts")
    context.note("a toy was used")
    return finish(context, context.params.text, threads=context.threads)


@stage(
    "toy.first",
    params=TextParams,
    inputs={"text": (KIND,)},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=("pytest",),
    summary="Keeps the first letter.",
)
def first(context: Context[TextParams]) -> Result:
    leave_trace(context.params.trace, "first")
    return finish(context, text_of(context, "text")[:1])


@stage(
    "toy.join",
    params=TextParams,
    inputs={"left": (KIND,), "right": (KIND,)},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Puts two texts together.",
)
def join(context: Context[TextParams]) -> Result:
    leave_trace(context.params.trace, "join")
    return finish(context, text_of(context, "left") + text_of(context, "right"))


@stage(
    "toy.meet",
    params=MeetParams,
    inputs={"text": (KIND,)},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Ends only when its counterpart runs at the same time.",
)
def meet(context: Context[MeetParams]) -> Result:
    place = Path(context.params.place)
    (place / context.params.me).touch()
    wait_for((place / context.params.other).exists)
    return finish(context, context.params.me)


@stage(
    "toy.alone",
    params=TextParams,
    inputs={"text": (KIND,)},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Writes when it began and ended; wants the machine for itself.",
    exclusive=True,
)
def alone(context: Context[TextParams]) -> Result:
    return _timed(context)


@stage(
    "toy.timed",
    params=TextParams,
    inputs={"text": (KIND,)},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Writes when it began and ended.",
)
def timed(context: Context[TextParams]) -> Result:
    return _timed(context)


def _timed(context: Context[TextParams]) -> Result:
    began = time.monotonic()
    time.sleep(0.2)
    span = [context.params.text, began, time.monotonic(), context.threads]
    leave_trace(context.params.trace, json.dumps(span))
    return finish(context, context.params.text)


@stage(
    "toy.resume",
    params=TextParams,
    inputs={},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Dies at its second step, and goes on from there when it is run again.",
)
def resume(context: Context[TextParams]) -> Result:
    step = context.job / "step"
    if not step.exists():
        step.write_text("half done", encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)
    return finish(context, f"{step.read_text(encoding='utf-8')}, then the rest")


@stage(
    "toy.stay",
    params=TextParams,
    inputs={},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Starts a child, writes both process ids to its trace, and stays.",
)
def stay(context: Context[TextParams]) -> Result:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    leave_trace(context.params.trace, json.dumps([os.getpid(), child.pid]))
    child.wait()
    return finish(context, "it was let go")


@stage(
    "toy.environment",
    params=TextParams,
    inputs={},
    output=KIND,
    version=1,
    determinism="nondeterministic",
    tools=(),
    summary="Writes the environment it is given.",
)
def environment(context: Context[TextParams]) -> Result:
    return finish(context, json.dumps({**os.environ, "cwd": str(Path.cwd())}))


@stage(
    "toy.break",
    params=BreakParams,
    inputs={},
    output=KIND,
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Breaks in the way it is told.",
)
def broken(context: Context[BreakParams]) -> Result:
    found = WAYS[context.params.how](context)
    return found if isinstance(found, Result) or found == "nothing" else finish(context, "it did not break")


def _ingot_error(_: Context[BreakParams]) -> None:
    raise DataError("the text is empty", where="data.txt:1", fix="write something")


def _value_error(_: Context[BreakParams]) -> None:
    raise ValueError("7 is not prime enough")


def _leave(_: Context[BreakParams]) -> None:
    sys.exit("enough of this")


def _kill(_: Context[BreakParams]) -> None:
    sys.stdout.write("the last words\n")
    os.kill(os.getpid(), signal.SIGKILL)


def _crash(_: Context[BreakParams]) -> None:
    ctypes.string_at(0)


def _hog(_: Context[BreakParams]) -> None:
    hoard = []
    for _step in range(200):
        hoard.append(bytearray(os.urandom(1 << 20) * 10))
        time.sleep(0.02)


def _hog_in_child(_: Context[BreakParams]) -> None:
    code = "import time; hoard = b'x' * 400_000_000; time.sleep(60)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _chatter(context: Context[BreakParams]) -> Result:
    """Prints junk by every way there is, some of it shaped like events."""
    sys.stdout.write('{"event":"node_finished","node":"forged","state":"built","reason":""}\n')
    os.write(1, b"junk from below Python\n" * 1000)
    subprocess.run(["/bin/echo", "junk from a child"], check=True)
    for step in range(1000):
        context.progress(step, 1000, "steps")
    context.progress(1000, 1000, "steps")
    return finish(context, "chatter", stdin=sys.stdin.read())


def _not_a_result(_: Context[BreakParams]) -> str:
    return "nothing"


def _odd_observation(context: Context[BreakParams]) -> Result:
    return finish(context, "odd", ratio=float("nan"))


def _slow_chatter(_: Context[BreakParams]) -> None:
    time.sleep(2.5)


WAYS: dict[str, Callable[[Context[BreakParams]], object]] = {
    "ingot error": _ingot_error,
    "value error": _value_error,
    "leave": _leave,
    "kill": _kill,
    "crash": _crash,
    "hog": _hog,
    "hog in child": _hog_in_child,
    "chatter": _chatter,
    "not a result": _not_a_result,
    "odd observation": _odd_observation,
    "slow": _slow_chatter,
}
