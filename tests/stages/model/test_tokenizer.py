"""Tokenizers are tried under limits, in a process of their own, whoever they are from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from ingot.artifacts.errors import IntakeError
from ingot.stages.model import probe, tokenizer

# Polynomial, which its text does not tell; it is found by trying.
SLOW = r"[\s\S]*[\s\S]*[\s\S]*[\x00][\x01]"


@pytest.fixture
def path(tiny_checkpoint, tmp_path):
    """The tokenizer.json of a checkpoint that a test may break."""
    return shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model") / "tokenizer.json"


def tokenizer_with(path, pattern):
    value = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps({**value, "pre_tokenizer": split}))


def test_a_tokenizer_that_panics_on_text_is_refused_in_one_line(path, capfd):
    tokenizer_with(path, "(a+)+$")
    with pytest.raises(IntakeError, match=r"fails on plain text: .*retry-limit") as caught:
        tokenizer.check_readable(path, path)
    assert "\n" not in caught.value.what
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("signal", ["SIGXCPU", "SIGKILL"])
def test_a_tokenizer_that_takes_too_long_is_refused(path, tmp_path, monkeypatch, signal):
    script = f"import os, signal; os.kill(os.getpid(), signal.{signal})"
    (tmp_path / "stuck.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tokenizer, "PROBE", "stuck")
    with pytest.raises(IntakeError, match="longer on a page of text than anybody waits"):
        tokenizer.check_readable(path, path)


def test_the_limit_on_processor_time_ends_a_tokenizer_that_hangs():
    script = (
        "import sys, pathlib, types\n"
        "from ingot.stages.model import probe\n"
        "probe.CPU_SECONDS = 1\n"
        "def hang(path):\n"
        "    while True: pass\n"
        "probe.fault = hang\n"
        "probe.main(pathlib.Path('x'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert -done.returncode in (24, 9)


def test_what_a_tokenizer_is_tried_on_is_a_second_or_less_for_a_sound_one(path):
    assert probe.fault(path) == {}
    assert sum(map(len, probe.texts())) < 100_000


def test_the_tokenizer_of_a_directory_from_anybody_is_given_once_it_passed_what_load_asks(path):
    vocabulary = json.loads((path.parent / "config.json").read_text())["vocab_size"]
    given = tokenizer.checked_tokenizer(path.parent, vocabulary)
    assert given.decode(given.encode("the river").ids) == "the river"
    highest = max(json.loads(path.read_text())["model"]["vocab"].values())
    with pytest.raises(IntakeError, match="larger than the vocabulary"):
        tokenizer.checked_tokenizer(path.parent, highest)
    whole = path.read_text()
    for pattern, reason in (("(a+)+$", "repeats without end"), (SLOW, "fails on plain text")):
        path.write_text(whole)
        tokenizer_with(path, pattern)
        with pytest.raises(IntakeError, match=reason):
            tokenizer.checked_tokenizer(path.parent, vocabulary)
    path.write_text("{")
    with pytest.raises(IntakeError, match=r"tokenizer.json"):
        tokenizer.checked_tokenizer(path.parent, vocabulary)
    path.unlink()
    with pytest.raises(IntakeError, match=r"there is no tokenizer.json"):
        tokenizer.checked_tokenizer(path.parent, vocabulary)
