"""The process that hands hostile inputs to Ingot and measures what becomes of them.

    python runner.py GROUP SOUND WORK [NUMBER]...

SOUND is a folder with a sound checkpoint and a sound pickle, WORK one to work in. It answers a line of JSON a
case of the group, all of them or those named: number, kind of error, text, exit code, seconds, CPU seconds;
then the most memory that it or a child of it held, and the CPU seconds of them all.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from cases import GROUPS
from ingot.artifacts.errors import IngotError


def main(group: str, sound: Path, work: Path, *numbers: str) -> None:
    for number in numbers or GROUPS[group]:
        case = GROUPS[group][number]
        place = work / number
        place.mkdir()
        subject = case.make(SimpleNamespace(sound=sound, place=place))
        started, spent = time.perf_counter(), cpu_seconds()
        told = {"kind": None, "text": "", "exit": 0}
        try:
            case.attempt(subject)
        except IngotError as error:
            told = {"kind": type(error).__name__, "text": str(error), "exit": error.exit_code}
        seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - spent}
        answer(number=number, **seconds, **told)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    # What it started counts as well: a tokenizer is tried in a process of its own.
    peak_kib = max(peak_kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    answer(peak_bytes=peak_kib << 10, cpu_seconds=cpu_seconds())


def cpu_seconds() -> float:
    """What this process and the ended ones that it started spent, in user and system mode."""
    return sum(os.times()[:4])


def answer(**value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
