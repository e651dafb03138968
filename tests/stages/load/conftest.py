"""Fixtures for loading: a checkpoint of one's own, with ways to change its JSON and its tensors."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
from ingot.artifacts.errors import IntakeError
from ingot.stages.load.intake import inspect_source

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class OwnCheckpoint:
    """A copy of a tiny checkpoint that a test may break."""

    path: Path

    def edit_json(self, name: str, **changes: object) -> None:
        """Sets keys of a JSON file's object; None removes one."""
        file = self.path / name
        value = {**json.loads(file.read_text("utf-8")), **changes}
        file.write_text(json.dumps({key: item for key, item in value.items() if item is not None}), "utf-8")

    def edit_tensors(self, change: Callable[[Tensors], Tensors]) -> None:
        """Writes model.safetensors again with the tensors that ``change`` makes of those in it."""
        file = self.path / "model.safetensors"
        safetensors.torch.save_file(
            change(safetensors.torch.load_file(file)), file, metadata={"format": "pt"}
        )

    def refusal(self) -> IntakeError:
        """The error that intake refuses it with, which names a place that exists or should."""
        with pytest.raises(IntakeError) as caught:
            inspect_source(self.path)
        assert caught.value.where is not None
        assert caught.value.where.startswith(str(self.path))
        assert caught.value.exit_code == 2
        return caught.value


@pytest.fixture
def own_checkpoint(tiny_checkpoint, tmp_path) -> Callable[..., OwnCheckpoint]:
    """A factory with the arguments of ``tiny_checkpoint``, for one checkpoint a test."""

    def make(family: str = "llama", **options: str) -> OwnCheckpoint:
        return OwnCheckpoint(shutil.copytree(tiny_checkpoint(family, **options), tmp_path / "model"))

    return make
