"""Hands Ingot every hostile input of the list, each in a process of its own, and measures what becomes of it.

    python tests/bench/bench_hostile.py

The inputs are those of tests/hostile/cases/: broken and malicious safetensors (1 to 27), pickles (28 to 42),
ONNX files (43 to 56), recipes, directories, tokenizers and archives (57 to 61); letters are more cases of one
number. CPU seconds are of the whole process and what it starts, the interpreter and imports included; memory
is the most that any of them held. Bars: each refused with exit code 2 and a message that names the file and
the fault, within 2 CPU seconds and 200 MB, and nothing done that an input asked for.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import make_llama
from machine import described

HOSTILE = Path(__file__).parents[1] / "hostile"
BAR_SECONDS, BAR_BYTES, NUMBERS = 2.0, 200_000_000, 61
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SHOWN = 60


def main() -> int:
    """Prints a line a case; 1 when a bar is not met."""
    sys.path.insert(0, str(HOSTILE))
    from cases import GROUPS

    with described(), tempfile.TemporaryDirectory() as name:
        work = Path(name)
        sound = make_sound(work / "sound")
        print(f"{'case':<6}{'exit':>5}{'CPU s':>7}{'MB':>6}  file: fault")
        met: dict[str, bool] = {}
        figures = []
        for group, cases in GROUPS.items():
            for number, case in cases.items():
                told, spent = hand_over(group, number, sound, work)
                is_named = case.file in told["text"] and case.fault in told["text"]
                within = spent["cpu_seconds"] < BAR_SECONDS and spent["peak_bytes"] < BAR_BYTES
                met[number] = told["exit"] == 2 and is_named and within
                figures.append((spent["cpu_seconds"], spent["peak_bytes"] / 1e6))
                spoken = f"{case.file}: {case.fault[:SHOWN]}" if is_named else f"NOT NAMED: {told['text']}"
                seconds, megabytes = figures[-1]
                print(f"{number:<6}{told['exit']:>5}{seconds:7.2f}{megabytes:6.0f}  {spoken}", flush=True)
        numbers = {int(number.rstrip("abcdef")) for number in met}
        failed = {int(number.rstrip("abcdef")) for number, fine in met.items() if not fine}
        seconds, megabytes = (max(column) for column in zip(*figures, strict=True))
    print(f"{len(numbers - failed)} of {NUMBERS} refused in {len(met)} cases; at most {seconds:.2f} CPU s, "
          f"{megabytes:.0f} MB")  # fmt: skip
    fine = not failed and numbers == set(range(1, NUMBERS + 1)) and not Path("/tmp/ingot-was-here").exists()
    print(f"bars {'met' if fine else 'NOT MET'}")
    return int(not fine)


def make_sound(directory: Path) -> Path:
    """A checkpoint with nothing wrong, its weights as safetensors and pickled."""
    import safetensors.torch
    import torch

    make_llama.CONFIG.update(TINY)
    make_llama.make(directory)
    torch.save(safetensors.torch.load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    return directory


def hand_over(group: str, number: str, sound: Path, work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What became of a case, and what it took."""
    place = work / group
    place.mkdir(exist_ok=True)
    command = [sys.executable, str(HOSTILE / "runner.py"), group, str(sound), str(place), number]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise SystemExit(f"case {number} broke its process:\n{done.stderr}")
    told, spent = map(json.loads, done.stdout.splitlines())
    return told, spent


if __name__ == "__main__":
    sys.exit(main())
