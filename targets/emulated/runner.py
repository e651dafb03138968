"""Runs an ONNX file on windows of tokens inside the sandbox, as runner.cpp does a program of ExecuTorch.

runner.py MODEL INPUT OUTPUT TASK STEPS, with the sandbox's onnxruntime and numpy, and nothing of Ingot.
"""

import os
import re
import sys
from typing import Any

import numpy as np
import onnxruntime


def kilobytes(field: str) -> int:
    """A line of this process's status, in kB."""
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - imports are slow in here
        found = re.search(rf"{field}:\s+(\d+) kB", file.read())
    return int(found[1]) if found else 0


def windows_of(path: str) -> list[Any]:
    """int64 numbers: for each window its length and its ids."""
    numbers, at = np.fromfile(path, np.int64), 0
    found: list[Any] = []
    while at < len(numbers):
        found.append(numbers[at + 1 : at + 1 + numbers[at]])
        at += 1 + int(numbers[at])
    return found


def main(model: str, given: str, output: str, task: str, steps: str) -> None:
    """The whole run; getppid marks what the plugin counts."""
    before = kilobytes("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {value.name: value.shape for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    caches = {
        name: outputs[1 + number] for number, name in enumerate(n for n in inputs if len(inputs[n]) == 4)
    }

    def run(ids: Any, past: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        start = next(iter(past.values())).shape[2] if past else 0
        row = ids[None]
        feeds = {"input_ids": row, "attention_mask": np.ones((1, start + len(ids)), np.int64)}
        feeds["position_ids"] = np.arange(start, start + len(ids), dtype=np.int64)[None]
        feeds["token_type_ids"] = np.zeros_like(row)
        feeds = {name: value for name, value in feeds.items() if name in inputs}
        result, *present = session.run(outputs if caches else outputs[:1], {**feeds, **past})
        return result, dict(zip(caches, present, strict=True)) if caches else {}

    empty = {name: np.zeros((1, inputs[name][1], 0, inputs[name][3]), np.float32) for name in caches}
    windows = windows_of(given)
    with open(output, "wb") as file:  # noqa: PTH123
        os.getppid()
        for window in windows:
            run(window, empty)[0].astype(np.float32).tofile(file)
        os.getppid()
    past = empty
    if task == "causal-lm":
        for token in windows[0][: int(steps)]:
            _, past = run(np.array([token]), past)
    os.getppid()
    sys.stdout.write(f"peak_kb {kilobytes('VmHWM')} before_kb {before}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
