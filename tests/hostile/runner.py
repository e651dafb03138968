"""The process that hands hostile inputs to Ingot and measures what becomes of them: one process a group.

It is told a group, a folder with a sound checkpoint and a sound pickle, and a folder to work in; it answers a
line of JSON a case: number, kind of error, text, exit code, seconds; and the peak memory of them all.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from ingot.artifacts.errors import IngotError


def main(group: str, sound: Path, work: Path) -> None:
    spec = importlib.util.spec_from_file_location("hostile_cases", Path(__file__).with_name("cases.py"))
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    for number, (make, attempt) in cases.GROUPS[group].items():
        place = work / number
        place.mkdir()
        subject = make(SimpleNamespace(sound=sound, place=place))
        started = time.perf_counter()
        told = {"kind": None, "text": "", "exit": 0}
        try:
            attempt(subject)
        except IngotError as error:
            told = {"kind": type(error).__name__, "text": str(error), "exit": error.exit_code}
        answer(number=number, seconds=time.perf_counter() - started, **told)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    answer(peak_bytes=peak_kib << 10)


def answer(**value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
