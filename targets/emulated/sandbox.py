"""Where the sandbox of emulated ARM processors is, what is in it, and how a program runs there.

    DIR/ready.json                what was installed, written last
    DIR/host/                     qemu-user of this machine, unpacked
    DIR/root/                     arm64 packages of Debian, unpacked: libraries and Python
    DIR/cpus/CPU/                 the same root by links, with the /proc/cpuinfo of that processor
    DIR/executorch/ DIR/onnxruntime/   aarch64 wheels, unpacked
    DIR/runner DIR/count.so       built here from the sources beside this file

A processor's own /proc/cpuinfo is needed: libraries choose kernels by it, and one that lists what the
emulated processor lacks ends in an illegal instruction.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...artifacts.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCES = Path(__file__).parent
READY = "ready.json"
# A number that rises when what is installed changes.
LAYOUT = 2
# Tokens that are decoded one at a time, which takes as long as a prompt of many times as many.
DECODED_TOKENS = 32
FIX = "ingot setup arm-emulation"
BASE_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"


@dataclass(frozen=True)
class Processor:
    """name: what qemu calls it.  part: its number, which libraries know it by.  features: as Linux lists."""

    name: str
    part: str
    features: str

    def cpuinfo(self) -> str:
        """The text of its /proc/cpuinfo, two cores."""
        lines = (
            "BogoMIPS\t: 100.00", f"Features\t: {self.features}", "CPU implementer\t: 0x41",
            "CPU architecture: 8", "CPU variant\t: 0x4", f"CPU part\t: {self.part}", "CPU revision\t: 1",
        )  # fmt: skip
        return "".join(f"processor\t: {core}\n" + "\n".join(lines) + "\n\n" for core in range(2))


PROCESSORS: Mapping[str, Processor] = {
    each.name: each
    for each in (
        Processor("cortex-a53", "0xd03", BASE_FEATURES),
        Processor(
            "cortex-a76", "0xd0b", f"{BASE_FEATURES} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
        ),
    )
}


@dataclass(frozen=True)
class Ran:
    """counts: (all, dot products) between the marks.  peak_bytes: of the process at its peak.

    grown_bytes: the same less what it held before the artifact was opened.  Both hold what the emulator needs
    for what it translates.
    """

    counts: tuple[tuple[int, int], ...]
    peak_bytes: int
    grown_bytes: int


def directory() -> Path:
    """Where the sandbox is, or would be."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "ingot-arm-emulation"


def installed() -> Mapping[str, str] | None:
    """The versions of what is in the sandbox; None where it is missing or of another layout."""
    try:
        value = json.loads((directory() / READY).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(value, dict) and value.get("layout") == LAYOUT
    return {name: str(version) for name, version in value["versions"].items()} if known else None


def run(model: Path, given: Path, output: Path, task: str, processor: str, seconds: int) -> Ran:
    """Runs an artifact's file on the windows in ``given`` and writes its results; see runner.cpp.

    seconds: after which it is ended.  Raises StageError when it does not load, fails, or takes longer.
    """
    base = directory()
    program = (
        ["runner"] if model.suffix == ".pte" else ["root/usr/bin/python3.11", str(SOURCES / "runner.py")]
    )
    libraries = base / "executorch/executorch/lib"
    paths = {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(base / "onnxruntime"), "PYTHONHOME": "/usr",
             "PYTHONDONTWRITEBYTECODE": "1", "ORT_DISABLE_TELEMETRY": "1"}  # fmt: skip
    command = [
        str(base / "host/usr/bin/qemu-aarch64"), "-cpu", processor, "-L", str(base / "cpus" / processor),
        "-plugin", str(base / "count.so"),
        *(part for item in paths.items() for part in ("-E", "=".join(item))),
        str(base / program[0]), *program[1:], str(model), str(given), str(output), task,
        str(DECODED_TOKENS),
    ]  # fmt: skip
    host = base / "host/usr/lib" / f"{os.uname().machine}-linux-gnu"
    environment = {"PATH": os.defpath, "LD_LIBRARY_PATH": str(host)}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StageError(
            f"the emulated {processor} took longer than {seconds} s", fix="measure fewer tokens"
        ) from None
    memory = re.search(r"peak_kb (\d+) before_kb (\d+)", done.stdout)
    if done.returncode or not memory:
        how = (
            f"signal {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"{done.returncode}"
        )
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise StageError(
            f"{model.name} does not run on an emulated {processor} ({how}): it said {said[:300]!r}"
        )
    counts = re.findall(r"^COUNT all=(\d+) dot=(\d+)$", done.stderr, re.MULTILINE)
    peak, before = (int(number) * 1024 for number in memory.groups())
    # The first mark counts what came before: loading.
    return Ran(tuple((int(every), int(dot)) for every, dot in counts[1:]), peak, peak - before)
