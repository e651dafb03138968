"""Fixtures of the merge's tests: tensors as operands, one task carried out, siblings of a network."""

from __future__ import annotations

import itertools
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ingot.artifacts.tensors import SafetensorsWriter, TensorShape, TensorSource
from ingot.stages.merge import method
from ingot.stages.merge.blocks import Workers
from ingot.stages.merge.execute import check
from ingot.stages.merge.making import make
from ingot.stages.merge.operands import StoredOperand
from ingot.stages.merge.task import Input, TensorTask
from ingot.stages.model import dtypes

if TYPE_CHECKING:
    from pathlib import Path

    Sibling = Callable[..., Path]

NAMES = {getattr(torch, name): dtype for dtype, name in dtypes.NAMES.items()} | {torch.int64: "I64"}
NAME = "model.layers.0.mlp.up_proj.weight"

Store = Callable[..., StoredOperand]
Merge = Callable[..., torch.Tensor]


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """A safetensors file of these tensors, in this order."""
    layout = [TensorShape(name, NAMES[each.dtype], tuple(each.shape)) for name, each in tensors.items()]
    with path.open("wb") as stream, SafetensorsWriter(stream, layout) as writer:
        for name, each in tensors.items():
            writer.write(name, each.contiguous().reshape(-1).view(torch.uint8).numpy())
    return path


def task_of(
    name: str,
    inputs: Sequence[StoredOperand],
    base: StoredOperand | None = None,
    each: Sequence[Mapping[str, object]] | None = None,
    dtype: torch.dtype = torch.float32,
    **shared: object,
) -> TensorTask:
    """A task with the defaults of its method. each: the parameters of every input."""
    declared = method.get(name).parameters
    own = {p.name: p.default for p in declared if p.scope != "shared" and p.default is not method.REQUIRED}
    all_ = {p.name: p.default for p in declared if p.scope == "shared" and p.default is not method.REQUIRED}
    given = [Input(one, {**own, **p}) for one, p in zip(inputs, each or [{}] * len(inputs), strict=True)]
    shared = {key.rstrip("_"): value for key, value in shared.items()}
    output = TensorShape(NAME, NAMES[dtype], inputs[0].shape)
    return TensorTask(output, name, base, tuple(given), {**all_, **shared})


def carry_out(task: TensorTask, threads: int = 1, seed: int = 0, **more: Any) -> torch.Tensor:
    """The output of one task."""
    found = method.get(task.method)
    check(task, found)
    with Workers(threads) as workers:
        data = b"".join(bytes(part) for part in make(task, found, workers, seed, **more))
    dtype = getattr(torch, dtypes.NAMES[task.output.dtype])
    found = torch.empty(task.output.shape, dtype=dtype)
    found.reshape(-1).view(torch.uint8).numpy()[:] = np.frombuffer(data, np.uint8)
    return found


@pytest.fixture
def stored(tmp_path: Path) -> Store:
    """stored(tensor, dtype=None): an operand whose tensor is in a file of its own."""
    counter = itertools.count(1)

    def store(tensor: torch.Tensor | Sequence[Any], dtype: torch.dtype | None = None) -> StoredOperand:
        tensor = torch.as_tensor(tensor)
        number = next(counter)
        path = write(tmp_path / f"{number}.safetensors", {NAME: tensor.to(dtype or tensor.dtype)})
        return StoredOperand(TensorSource.open([path]), f"model{number}", NAME)

    return store


@pytest.fixture
def merge(stored: Store) -> Merge:
    """merge(name, inputs, base=None, each=None, threads=1, seed=0, **shared): the output of tensors given."""

    def run(
        name: str,
        inputs: Sequence[Any],
        base: Any = None,
        each: Sequence[Mapping[str, object]] | None = None,
        dtype: torch.dtype = torch.float32,
        threads: int = 1,
        seed: int = 0,
        elements: int | None = None,
        **shared: object,
    ) -> torch.Tensor:
        operands = [stored(one) for one in inputs]
        task = task_of(name, operands, None if base is None else stored(base), each, dtype, **shared)
        more = {} if elements is None else {"block_elements": elements}
        return carry_out(task, threads, seed, **more)

    return run


@pytest.fixture
def carry() -> Merge:
    """carry(name, operands, each=None, **shared): the same of operands, in float32."""

    def run(
        name: str,
        inputs: Sequence[StoredOperand],
        each: Sequence[Mapping[str, object]] | None = None,
        **shared: object,
    ) -> torch.Tensor:
        return carry_out(task_of(name, inputs, None, each, torch.float32, **shared))

    return run


@pytest.fixture
def merged(run_stage: Any, tmp_path: Path) -> Any:
    """``(stage, values, notes=None, observed=None) -> Artifact``: expanded as in the pipeline, then run."""
    from ingot.stages import base

    def run(
        stage: str,
        values: Mapping[str, object],
        notes: list[str] | None = None,
        observed: dict[str, object] | None = None,
    ) -> Any:
        from pathlib import Path

        expand = base.get(stage).expand
        assert expand is not None
        expansion = expand(values, tmp_path, "load")
        inputs = {name: Path(source.name) for name, source in expansion.sources.items()}
        return run_stage(stage, inputs, notes=notes, observed=observed, **expansion.values)

    return run


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration text."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text("\n".join(f"the {n} quick brown foxes jump over {n * 7} lazy dogs" for n in range(400)))
    return path


@pytest.fixture(scope="session")
def sibling(tiny_checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Sibling:
    """``(family, name) -> directory``: weights near the family's, shifted by what name gives."""
    made: dict[tuple[str, str], Path] = {}

    def make(family: str, name: str) -> Path:
        if (family, name) not in made:
            import numpy as np
            from safetensors.numpy import load_file, save_file

            directory = tmp_path_factory.mktemp(f"{family}-{name}")
            shutil.copytree(tiny_checkpoint(family), directory, dirs_exist_ok=True)
            generator = np.random.default_rng(zlib.crc32(name.encode()))
            weights = {
                key: value + generator.normal(0, 0.05, value.shape).astype(np.float32)
                for key, value in sorted(load_file(directory / "model.safetensors").items())
            }
            save_file(weights, directory / "model.safetensors", {"format": "pt"})
            made[family, name] = directory
        return made[family, name]

    return make
