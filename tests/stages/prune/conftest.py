"""Runs pruning stages on tiny checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ingot.stages.model.checkpoint import Checkpoint

from ..conftest import Made

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Pruned(Made):
    """What a stage made of a checkpoint."""

    @property
    def before(self) -> Checkpoint:
        """The checkpoint that was pruned."""
        return Checkpoint.open(self.directory)

    @property
    def after(self) -> Checkpoint:
        """The checkpoint that was made."""
        return Checkpoint.open(self.artifact.path)

    def weight(self, name: str) -> Any:
        """A linear weight that was made, float32 [out, in]."""
        linear = next(linear for linear in self.after.architecture.linears if linear.name == name)
        value = self.after.tensors.float32(name)
        return value.T if linear.stored_in_out else value


@pytest.fixture
def prune(make_from: Callable[..., Made]) -> Callable[..., Pruned]:
    """``(directory or family, stage, job=None, threads=1, progress=None, **params) -> Pruned``."""
    return lambda *given, **params: Pruned(**vars(make_from(*given, **params)))


@pytest.fixture
def make_tiny(tmp_path: Path, tiny_checkpoint: Any) -> Callable[..., Path]:
    """``(family, **config) -> directory``: a tiny checkpoint whose config differs in some values."""

    def make(family: str, **changes: object) -> Path:
        import shutil

        import transformers

        from tests.conftest import FAMILIES, randomize

        model_name, config_name, values = FAMILIES[family]
        directory = tmp_path / f"changed-{family}"
        shutil.copytree(tiny_checkpoint(family), directory)
        config = getattr(transformers, config_name)(**{**values, **changes})
        model = getattr(transformers, model_name)(config)
        randomize(model, seed=1)
        model.save_pretrained(directory)
        return directory

    return make


def outputs_on(text: Path, before: Path, *others: Path) -> list[Any]:
    """What a checkpoint and others with its tokens compute of the first batch of a text."""
    from ingot.stages.model.calibration.samples import take
    from ingot.stages.model.torch_network import Network

    model = Checkpoint.open(before).architecture
    batch = take(text, before, model, 64, 16).batches[0]
    sources = None if batch.sources is None else batch.sources.numpy()
    return [Network(path, model.task)(batch.ids.numpy(), sources) for path in (before, *others)]
