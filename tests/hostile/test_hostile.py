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

MOST_SECONDS = 2.0
MOST_BYTES = 200_000_000
RUNNER = Path(__file__).with_name("runner.py")

# number → the file that the message names, and what it says of it.
TABLE = {
    "1": ("model.safetensors", "over the limit"),
    "2": ("model.safetensors", "it is empty"),
    "3": ("model.safetensors", "fewer than the 8"),
    "4": ("model.safetensors", "over the limit"),
    "5": ("model.safetensors", "does not begin with '{'"),
    "6": ("model.safetensors", "'b' overlaps"),
    "7": ("model.safetensors", "'b' leaves a hole"),
    "8": ("model.safetensors", "1 bytes follow the last tensor"),
    "9": ("model.safetensors", "cut short"),
    "10": ("model.safetensors", "the key 'a' twice"),
    "11": ("model.safetensors", "the key 'a' twice"),
    "12": ("model.safetensors", "but its offsets span"),
    "13": ("model.safetensors", "impossible shape"),
    "13b": ("model.safetensors", "impossible shape"),
    "14": ("model.safetensors", "8 bytes, but its offsets span 2"),
    "15": ("model.safetensors", "offsets span -2"),
    "16": ("model.safetensors", "unknown dtype 'F5'"),
    "17": ("model.safetensors", "not UTF-8"),
    "18": ("model.safetensors", "nested too deeply"),
    "18b": ("model.safetensors", "more entries than the limit"),
    "19": ("model.safetensors", "__metadata__"),
    "20": ("model.safetensors", "'../../etc/x', which is not a plain name"),
    "21": ("model.safetensors", "'a\\x00b', which is not a plain name"),
    "21b": ("model.safetensors", "'a\\nb', which is not a plain name"),
    "21c": ("model.safetensors", "'\\x1b[31mred', which is not a plain name"),
    "22": ("model.safetensors", "more entries than the limit"),
    "23": ("model.safetensors", "holds 1 NaN or infinite values"),
    "24": ("model.safetensors.index.json", "the shard gone.safetensors is missing"),
    "25": ("model.safetensors.index.json", "into '../shard-1.safetensors'"),
    "26": ("shard-2.safetensors", "is stored twice"),
    "27": ("model.safetensors", "it changed while it was loaded"),
    "28": ("pytorch_model.bin", "names 'posix.system'"),
    "28b": ("pytorch_model.bin", "its weights are pickled"),
    "29": ("pytorch_model.bin", "names 'builtins.__import__'"),
    "30": ("pytorch_model.bin", "names 'importlib.import_module'"),
    "31": ("pytorch_model.bin", "names 'torch.hub.load'"),
    "32": ("pytorch_model.bin", "names 'torch.utils.cpp_extension.load_inline'"),
    "33": ("pytorch_model.bin", "names 'nobody_knows_this.run'"),
    "34": ("pytorch_model.bin", "names 'posix.system'"),
    "34b": ("pytorch_model.bin", "its pickle is damaged"),
    "35": ("model.safetensors", "not a usable safetensors file"),
    "35b": ("pytorch_model.bin", "names 'posix.system'"),
    "35c": ("text.txt", "not UTF-8"),
    "35d": ("pytorch_model.bin", "which no saved weights need"),
    "36": ("pytorch_model.bin", "inner.zip' is none of those"),
    "37": ("pytorch_model.bin", "is called"),
    "38": ("pytorch_model.bin", "CRC-32"),
    "38b": ("pytorch_model.bin", "CRC-32"),
    "39": ("pytorch_model.bin", "'../../etc/cron.d/x' is none of those"),
    "40": ("pytorch_model.bin", "is compressed or encrypted"),
    "41": ("pytorch_model.bin", "a tensor of 1,099,511,627,776 elements over 1"),
    "42": ("evaluation.npy", "not UTF-8"),
    "43": ("model.onnx", "'../w.data', which is not the name of a file beside it"),
    "44": ("model.onnx", "'/etc/passwd', which is not the name of a file beside it"),
    "45": ("model.onnx", "is a symlink or no regular file"),
    "46": ("model.onnx", "'linked/w.data', which is not the name of a file beside it"),
    "47": ("model.onnx", "has 2 hard links"),
    "48": ("model.onnx", "is a symlink or no regular file"),
    "49": ("model.onnx", "ends at byte 4,112 of model.onnx.data, which has 16"),
    "50": ("model.onnx", "the offset of 'w' is '-16', not a whole number"),
    "51": ("model.onnx", "takes 16 bytes by its shape, but names 1,000,000,000,000"),
    "52": ("model.onnx", "takes 16 bytes by its shape, but names 8"),
    "53": ("model.onnx", "does not say where"),
    "53b": ("model.onnx", "cannot be read"),
    "54": ("model.onnx", "1 byte to 2 GiB"),
    "55": ("model.onnx", "before anything makes it: a circle"),
    "55b": ("model.onnx", "functions of its own"),
    "56": ("model.onnx", "operators of 'evil.ops'"),
    "57": ("ingot.yaml", "more than"),
    "57b": ("ingot.yaml", "the tag"),
    "58": ("config.json", "auto_map"),
    "59": ("config.json", "a symlink out of the checkpoint"),
    "59b": ("model.safetensors", "its symlinks form a loop"),
    "59c": ("model.safetensors", "setuid"),
    "59d": ("model.safetensors.index.json", "into 'aux.safetensors'"),
    "59e": ("config.json", "where letter case does not count"),
    "60": ("tokenizer.json", "repeats without end"),
    "60b": ("tokenizer.json", "plain text"),
    "60c": ("chat_template.jinja", "leads out of a sandbox"),
    "61": ("model.tar", "is an archive, and archives are not read"),
    "61b": ("model.tar", "is an archive, and archives are not read"),
    "61c": ("model.tar", "is an archive, and archives are not read"),
    "61d": ("model.tar", "is an archive, and archives are not read"),
    "61e": ("model", "is an archive, and archives are not read"),
}
LIMITS = {"safetensors": 27, "pickle": 42, "onnx": 56, "other": 61}


def group_of(number: str) -> str:
    plain = int(number.rstrip("abcdef"))
    return next(group for group, last in LIMITS.items() if plain <= last)


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


def test_the_table_has_every_number():
    assert {int(number.rstrip("abcdef")) for number in TABLE} == set(range(1, 62))


@pytest.mark.parametrize("number", TABLE)
def test_a_hostile_input_is_refused_by_name_and_fault_within_two_seconds(told, number):
    name, fault = TABLE[number]
    case = told(group_of(number))[0][number]
    assert case["exit"] == 2, case
    assert name in case["text"]
    assert fault in case["text"]
    assert case["text"].isprintable()
    assert case["seconds"] < MOST_SECONDS


@pytest.mark.parametrize("group", LIMITS)
def test_no_hostile_input_takes_more_memory_than_the_bound(told, group):
    assert told(group)[1] < MOST_BYTES


def test_nothing_that_a_pickle_asked_for_was_done(told):
    told("pickle")
    assert not Path("/tmp/ingot-was-here").exists()
