"""The executor: whole files, the same bytes however they are made, and a merge that outlives kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingot.artifacts.errors import InputError, StoreError
from ingot.artifacts.faults import VARIABLE
from ingot.artifacts.store import Store
from ingot.artifacts.tensors import TensorShape, TensorSource
from ingot.stages.merge import method
from ingot.stages.merge.blocks import Workers
from ingot.stages.merge.execute import execute
from ingot.stages.merge.making import make
from ingot.stages.merge.operands import StoredOperand
from ingot.stages.merge.task import TensorTask

from .conftest import carry_out, task_of, write

if TYPE_CHECKING:
    from pathlib import Path

    from ingot.artifacts.manifest import Artifact

SHAPES = {
    "model.embed_tokens.weight": (50, 24),
    "model.layers.0.self_attn.q_proj.weight": (24, 24),
    "model.layers.0.input_layernorm.weight": (24,),
    "model.layers.0.scale": (),
    "model.layers.0.nothing": (0, 24),
    "model.norm.weight": (24,),
}
TOTAL = sum(torch.Size(shape).numel() for shape in SHAPES.values())


def files(folder: Path, count: int = 3) -> list[Path]:
    """A base and its siblings, in bf16, with a norm in float32."""
    paths = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        stored = {n: t if n == "model.norm.weight" else t.bfloat16() for n, t in tensors.items()}
        paths.append(write(folder / f"{number}.safetensors", stored))
    return paths


def tasks(paths: list[Path], name: str = "ties") -> list[TensorTask]:
    """A merge of them all, or a copy of the first, into the first's dtypes."""
    sources = [TensorSource.open([path]) for path in paths]
    made = []
    for tensor in SHAPES:
        operands = [StoredOperand(each, f"model{n}", tensor) for n, each in enumerate(sources, 1)]
        first, *others = operands
        if name == "passthrough":
            task = task_of(name, [first])
        else:
            task = task_of(name, others, first, [{"weight": 0.6, "density": 0.4}] * len(others))
        made.append(replace(task, output=sources[0].info(tensor)))
    return made


def run(store: Store, folder: Path, name: str = "ties", **more: object) -> tuple[Artifact, dict[str, object]]:
    """The merge as an artifact, and what was observed."""
    (job := folder / "job").mkdir(exist_ok=True)
    paths = sorted(folder.glob("?.safetensors"))
    with store.outbox() as outbox:
        observed = execute(
            tasks(paths, name),
            {name: method.get(name)},
            outbox,
            **{"job": job, "seed": 0, "threads": 1, "progress": lambda *_: None, **more},
        )
        return outbox.publish("checkpoint", {}), dict(observed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files(tmp_path)
    return tmp_path


def test_the_file_holds_every_tensor_with_its_dtype_and_what_the_method_makes(folder, store):
    artifact, observed = run(store, folder)
    found = TensorSource.open([artifact.path / "model.safetensors"])
    assert set(found.names()) == set(SHAPES)
    assert observed["tensors"] == len(SHAPES)
    for task in tasks(sorted(folder.glob("?.safetensors"))):
        info = found.info(task.output.name)
        assert (info.dtype, info.shape) == (task.output.dtype, task.output.shape)
        assert (
            found.raw(task.output.name).tobytes()
            == carry_out(task).reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    assert store.verify().sound


def test_the_seed_of_hashes_changes_no_byte(folder, store):
    digests = {child(folder, PYTHONHASHSEED=seed).stdout.split()[0] for seed in ("0", "77")}
    assert digests == {copied(store, folder)[0].digest}


@pytest.mark.parametrize("name", ["linear", "ties", "dare_ties", "dare_linear", "task_arithmetic"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(threads=st.integers(1, 4), elements=st.integers(1, 2000), count=st.integers(1, 3000))
def test_threads_and_blocks_change_no_byte(stored, name, threads, elements, count):
    generator = torch.Generator().manual_seed(count)
    # Few values, so that many magnitudes are equal.
    tensors = [torch.randint(-4, 5, (count,), generator=generator) / 8 for _ in range(3)]
    base, *others = [stored(each, torch.bfloat16) for each in tensors]
    rescale = {} if name == "linear" else {"rescale": True}
    task = task_of(name, others, base, [{"weight": 0.7, "density": 0.3}] * 2, torch.bfloat16, **rescale)
    expected = carry_out(task)
    found = carry_out(task, threads, block_elements=elements)
    assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("name", ["linear", "slerp", "dare_ties"])
def test_no_more_is_held_for_a_larger_tensor(stored, name):
    held = {}
    for elements in (1 << 22, 1 << 24):
        drawn = torch.randn(elements, generator=torch.Generator().manual_seed(0)).bfloat16()
        base, *others = [stored(drawn.roll(number)) for number in range(4)]
        taken = others[:1] if name == "slerp" else others
        own = {"linear": {"weight": 0.3}, "slerp": {}, "dare_ties": {"weight": 0.3, "density": 0.5}}[name]
        shared = {"t": 0.4} if name == "slerp" else {}
        below = None if name == "linear" else base
        task = task_of(name, taken, below, [own] * len(taken), torch.bfloat16, **shared)
        with Workers(2) as workers:
            tracemalloc.start()
            for part in make(task, method.get(name), workers, 0):
                assert len(part)
            held[elements] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    small, large = held.values()
    # Threads that came to work have buffers of their own, up to as much again; not four times as much.
    assert large < 2 * small + 1_000_000
    assert large < 2 * (1 << 24)  # less than one of the models


@pytest.mark.parametrize("limit", [1, 700, 1300, 10_000])
def test_shards_hold_the_same_tensors_in_files_no_larger_than_asked(folder, store, limit):
    (whole, _), (split, _) = run(store, folder), run(store, folder, max_shard_bytes=limit)
    one = TensorSource.open([whole.path / "model.safetensors"])
    paths = sorted(split.path.glob("*.safetensors"))
    many = TensorSource.open(paths)
    assert set(one.names()) == set(many.names())
    assert all(one.raw(name).tobytes() == many.raw(name).tobytes() for name in one.names())
    for path in paths:
        sizes = [info.nbytes for name in many.names() if (info := many.info(name)).file == path]
        assert sum(sizes) <= limit or len(sizes) == 1
    if len(paths) > 1:
        index = json.loads((split.path / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == {name: many.info(name).file.name for name in many.names()}
        assert index["metadata"]["total_size"] == sum(one.info(name).nbytes for name in one.names())


# Copies, for which nothing heavy is imported: what outlives a kill does not depend on the method.
CHILD = """
import sys
from pathlib import Path
from ingot.artifacts.store import Store
from ingot.artifacts.tensors import TensorSource
from ingot.stages.merge import method
from ingot.stages.merge.blocks import Workers
from ingot.stages.merge.execute import execute
from ingot.stages.merge.making import make
from ingot.stages.merge.operands import StoredOperand
from ingot.stages.merge.task import Input, TensorTask

folder = Path(sys.argv[1])
source = TensorSource.open([folder / "0.safetensors"])
tasks = [
    TensorTask(source.info(name), "passthrough", None, (Input(operand, {"scale": None}),))
    for name in source.names()
    for operand in [StoredOperand(source, "model1", name)]
]
(folder / "job").mkdir(exist_ok=True)
with Store.open(folder / "store").outbox() as outbox:
    observed = execute(
        tasks, {"passthrough": method.get("passthrough")}, outbox,
        job=folder / "job", seed=0, threads=1, progress=lambda *_: None, max_shard_bytes=1300,
    )
    print(outbox.publish("checkpoint", {}).digest, observed["resumed_tensors"])
assert "torch" not in sys.modules
"""


def child(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A merge in a process of its own."""
    command = [sys.executable, "-c", CHILD, str(folder)]
    ordinary = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return subprocess.run(
        command, env={**ordinary, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def copied(store: Store, folder: Path, limit: int = 1300) -> tuple[Artifact, dict[str, object]]:
    """The child's merge, in this process."""
    return run(store, folder, "passthrough", max_shard_bytes=limit)


class TestKilled:
    @pytest.mark.parametrize(
        ("place", "whole"),
        [
            ("merge.written", 0),
            ("merge.written=kill@4", 3),
            ("merge.marked", 1),
            ("merge.closed", 1),
            ("merge.closed=kill@2", len(SHAPES)),
            ("write=torn@4", 1),
            ("publish.locked", 0),
        ],
    )
    def test_a_killed_merge_leaves_nothing_and_the_next_goes_on_behind_its_last_whole_tensor(
        self, folder, tmp_path_factory, place, whole
    ):
        files(calm := tmp_path_factory.mktemp("calm"))
        expected, _ = copied(Store.open(calm / "store"), calm)
        assert child(folder, INGOT_FAULT=place).returncode == -signal.SIGKILL
        store = Store.open(folder / "store")
        assert store.digests() == []
        artifact, observed = copied(store, folder)
        assert artifact.digest == expected.digest
        assert observed["resumed_tensors"] == whole
        assert store.verify().sound

    def test_finished_tensors_are_not_made_again(self, folder, monkeypatch):
        assert child(folder, INGOT_FAULT="merge.marked=kill@3").returncode == -signal.SIGKILL
        made = []
        real = method.get("passthrough")
        counted = replace(real, merge=lambda *both: made.append(both[0].output.name) or real.merge(*both))
        monkeypatch.setattr(method, "get", lambda name: counted)
        copied(Store.open(folder / "store"), folder)
        assert len(made) == len(SHAPES) - 3

    @pytest.mark.parametrize(
        ("what", "whole"), [("bytes", 1 + 3), ("length", 1 + 3), ("record", 1 + 4), ("fingerprint", 1)]
    )
    def test_what_a_merge_left_is_not_trusted(self, folder, store, tmp_path_factory, what, whole):
        files(calm := tmp_path_factory.mktemp("calm"))
        expected, _ = copied(Store.open(calm / "store"), calm)
        assert child(folder, INGOT_FAULT="merge.closed=kill@2").returncode == -signal.SIGKILL
        left = folder / "job" / "model-00002-of-00002.safetensors"
        record = left.with_name(f"{left.name}.jsonl")
        text, data = record.read_text(), left.read_bytes()
        if what == "bytes":
            left.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        elif what == "length":
            left.write_bytes(data[:-1])
        elif what == "record":
            record.write_text(text[:-9])
        else:
            record.write_text(text.replace(text[:10], '"000000000'))
        found, observed = copied(store, folder)
        assert found.digest == expected.digest
        assert observed["resumed_tensors"] == whole

    def test_a_merge_with_other_parameters_starts_anew(self, folder, store):
        assert child(folder, INGOT_FAULT="merge.closed=kill@2").returncode == -signal.SIGKILL
        _, observed = run(store, folder, "passthrough", max_shard_bytes=1300, seed=1)
        assert observed["resumed_tensors"] == 0


def test_a_full_disk_is_one_clear_error_and_the_finished_tensors_stay(folder, store, monkeypatch):
    monkeypatch.setenv(VARIABLE, "write=enospc@4")
    with pytest.raises(StoreError, match="no space left"):
        run(store, folder)
    monkeypatch.delenv(VARIABLE)
    _, observed = run(store, folder)
    assert observed["resumed_tensors"] > 0


class TestRefusals:
    def test_an_operand_of_another_shape(self, stored):
        task = task_of("linear", [stored(torch.ones(3)), stored(torch.ones(4))], each=[{"weight": 1.0}] * 2)
        with pytest.raises(InputError, match=r"model2:.* has the shape \[4\], not \[3\]"):
            carry_out(task)

    def test_whole_numbers_are_not_averaged(self, stored):
        operands = [stored(torch.ones(3, dtype=torch.int64)) for _ in range(2)]
        with pytest.raises(InputError, match="is I64, which no arithmetic is done on"):
            carry_out(task_of("linear", operands, each=[{"weight": 1.0}] * 2))


def test_whole_numbers_of_one_model_are_copied(stored, store, tmp_path):
    operand = stored(torch.arange(5))
    task = task_of("passthrough", [operand])
    task = TensorTask(TensorShape(task.output.name, "I64", (5,)), "passthrough", None, task.inputs, {})
    with store.outbox() as outbox:
        execute(
            [task], {"passthrough": method.get("passthrough")}, outbox,
            job=tmp_path, seed=0, threads=1, progress=lambda *_: None,
        )  # fmt: skip
        found = TensorSource.open([outbox.payload / "model.safetensors"])
        assert found.array(task.output.name).tolist() == [0, 1, 2, 3, 4]
