"""What a person waits for when nothing has to be built: `ingot --help`, and a demo that is all cached.

    python tests/bench/bench_cli.py [--workdir DIR] [--repeats N]

Whole processes: wall and CPU seconds (user and system), peak memory, and which heavy libraries they import.
Disturbance only ever adds time, so the best repeat counts; the median stands beside it. Python's bytecode is
in place, as after an installation, whatever PYTHONDONTWRITEBYTECODE says here.
Bars: --help < 0.3 s; the cached demo < 0.5 s and < 100 MB; neither imports torch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from machine import described, spend, working_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

INGOT = (sys.executable, "-m", "ingot")
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "numpy")
HELP_SECONDS, DEMO_SECONDS, DEMO_BYTES = 0.3, 0.5, 100_000_000


def main() -> int:
    """Prints a line a command; 1 when a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, help="keeps store and delivery; temporary by default")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    with described(), working_directory(options.workdir) as workdir:
        environment = _environment(workdir)
        places = ("--store", str(workdir / "demo-store"), "--out", str(workdir / "demo-out"))
        demo = (*INGOT, "demo", *places)
        cold = spend(demo, environment)
        print(
            f"{'':<14}{'best s':>8}{'median s':>10}{'CPU s':>8}{'peak MB':>9}  imports of {', '.join(HEAVY)}"
        )
        print(f"{'first demo':<14}{cold.seconds:8.2f}{'':>10}{cold.cpu_seconds:8.2f}")
        met = [
            _measure("--help", (*INGOT, "--help"), environment, options.repeats, HELP_SECONDS),
            _measure("cached demo", demo, environment, options.repeats, DEMO_SECONDS),
        ]
    print(f"bars {'met' if all(met) else 'NOT MET'}")
    return int(not all(met))


def _environment(workdir: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(workdir / "bytecode")}


def _measure(
    name: str, command: tuple[str, ...], environment: Mapping[str, str], repeats: int, bar_seconds: float
) -> bool:
    """Prints one command's line; whether it keeps to its bar and leaves torch alone."""
    spend(command, environment)
    runs = [spend(command, environment) for _ in range(repeats)]
    seconds, peak_bytes = [run.seconds for run in runs], max(run.max_rss_bytes for run in runs)
    imported = _imports(command, environment)
    print(
        f"{name:<14}{min(seconds):8.3f}{statistics.median(seconds):10.3f}"
        f"{min(run.cpu_seconds for run in runs):8.3f}{peak_bytes / 1e6:9.0f}  {', '.join(imported) or 'none'}"
    )
    return min(seconds) < bar_seconds and peak_bytes < DEMO_BYTES and "torch" not in imported


def _imports(command: tuple[str, ...], environment: Mapping[str, str]) -> list[str]:
    """Which of the heavy libraries a command imports, by Python's own log of imports."""
    logged = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]],
        capture_output=True, text=True, check=True, env=dict(environment),
    )  # fmt: skip
    modules = {line.rpartition("|")[2].strip() for line in logged.stderr.splitlines()}
    return [name for name in HEAVY if name in modules]


if __name__ == "__main__":
    sys.exit(main())
