"""What a case is, the ways in by which an input reaches Ingot, and the checkpoints that cases spoil.

None imports torch or onnx, whose memory would count.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
PICKLE = "pytorch_model.bin"


@dataclass(frozen=True)
class Case:
    """A hostile input. make: builds it, in a place that also names a sound checkpoint.  attempt: hands it to
    Ingot, which has to refuse it with a message that names ``file`` and says ``fault``.
    """

    make: Callable[[Any], Path]
    attempt: Callable[[Path], None]
    file: str
    fault: str


def plan(directory):
    from ingot.stages.load.intake import inspect_source

    inspect_source(directory)


def plan_with_pickles(directory):
    from ingot.stages.load.intake import inspect_source

    inspect_source(directory, allow_pickle=True)


def load(directory, allow_pickle=False, progress=lambda *_: None):
    from ingot.artifacts.store import Store
    from ingot.stages import base
    from ingot.stages.load.stage import LoadParams

    store = Store.open(directory.parent / "store")
    params = LoadParams(model=str(directory), allow_pickle=allow_pickle)
    with store.outbox() as outbox:
        context = base.Context(params, {}, outbox, directory.parent, 0, 1, progress, lambda _: None)
        result = base.get("load").run(context)
        outbox.publish("checkpoint", result.facts)


def load_with_pickles(directory):
    load(directory, allow_pickle=True)


def load_while_it_changes(directory):
    def change(_done, _total, what):
        if what == f"copying {WEIGHTS}":
            path = directory / WEIGHTS
            path.write_bytes(path.read_bytes()[:-4])

    load(directory, progress=change)


def generate_with(directory):
    from ingot.stages.model.tokenizer import checked_tokenizer

    checked_tokenizer(directory, vocabulary=1 << 20)


def open_delivery(directory):
    from ingot.targets.runtimes import onnx

    onnx.open(directory)


def read_recipe(path):
    from ingot.pipeline.recipe import load_recipe

    load_recipe(path)


def name_as_model(path):
    from ingot.pipeline.recipe import recipe_from_options

    recipe_from_options(str(path), ["cpu"])


def measure_on(path):
    from ingot.stages.model.text import read_documents

    read_documents(path)


def checkpoint(case, name="model"):
    return shutil.copytree(case.sound, case.place / name, ignore=shutil.ignore_patterns(PICKLE))


def indexed(weight_map):
    """A checkpoint whose index says this; model.safetensors is its only shard, as shard-1.safetensors."""

    def make(case):
        directory = checkpoint(case)
        (directory / WEIGHTS).rename(directory / "shard-1.safetensors")
        names = json.loads(header_of(directory / "shard-1.safetensors"))
        names.pop("__metadata__", None)
        value = {"weight_map": weight_map(sorted(names))}
        (directory / f"{WEIGHTS}.index.json").write_text(json.dumps(value))
        return directory

    return make


def header_of(path):
    data = path.read_bytes()
    return data[8 : 8 + struct.unpack("<Q", data[:8])[0]]
