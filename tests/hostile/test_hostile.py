"""Every hostile input that a model, delivery, recipe or text can be: refused by name, soon, and cheaply.

The numbers are those of the list in the design notes: safetensors 1 to 27, pickles 28 to 42, ONNX 43 to 56,
others 57 to 61. All 61 touch what Ingot reads. Two of them only as what they are mistaken for: numpy arrays
of objects (42), since Ingot reads no array that a person gives it, and tars (61), since it unpacks none.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from .cases import GROUPS

MOST_CPU_SECONDS = 2.0
# Waiting counts as well, but a busy machine makes everybody wait.
MOST_SECONDS = 30.0
MOST_BYTES = 200_000_000
RUNNER = Path(__file__).with_name("runner.py")
ALL = [(group, number) for group, cases in GROUPS.items() for number in cases]
LIMITS = {"safetensors": 27, "pickle": 42, "onnx": 56, "other": 61}


@pytest.fixture(scope="module")
def told(tiny_checkpoint, tmp_path_factory) -> Any:
    """told(group): what became of each of its cases, and the peak memory of all; run once a group."""
    sound = shutil.copytree(tiny_checkpoint("llama"), tmp_path_factory.mktemp("sound") / "model")
    torch.save(safetensors.torch.load_file(sound / "model.safetensors"), sound / "pytorch_model.bin")
    done: dict[str, tuple[dict[str, Any], int]] = {}

    def run(group: str) -> tuple[dict[str, Any], int]:
        if group not in done:
            work = tmp_path_factory.mktemp(group)
            command = [sys.executable, str(RUNNER), group, str(sound), str(work)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
            assert ended.returncode == 0, ended.stderr
            *cases, last = map(json.loads, ended.stdout.splitlines())
            done[group] = {case["number"]: case for case in cases}, last["peak_bytes"]
        return done[group]

    return run


def test_every_number_has_a_case_in_its_group():
    assert {number_of(number) for _, number in ALL} == set(range(1, 62))
    for group, number in ALL:
        assert group == next(name for name, last in LIMITS.items() if number_of(number) <= last)


def number_of(name: str) -> int:
    """The number in the list, without the letter of one more case of it."""
    return int(name.rstrip("abcdef"))


@pytest.mark.parametrize(("group", "number"), ALL)
def test_a_hostile_input_is_refused_by_name_and_fault_within_two_seconds(told, group, number):
    case = GROUPS[group][number]
    found = told(group)[0][number]
    assert found["exit"] == 2, found
    assert case.file in found["text"]
    assert case.fault in found["text"]
    assert found["text"].isprintable()
    assert found["cpu_seconds"] < MOST_CPU_SECONDS
    assert found["seconds"] < MOST_SECONDS


@pytest.mark.parametrize("group", GROUPS)
def test_no_hostile_input_takes_more_memory_than_the_bound(told, group):
    assert told(group)[1] < MOST_BYTES


def test_nothing_that_a_pickle_asked_for_was_done(told):
    told("pickle")
    assert not Path("/tmp/ingot-was-here").exists()
