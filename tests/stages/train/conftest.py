"""What tests of training share: a training in a directory, of a fresh network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def make_setup(tiny_checkpoint, text_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """``(family="llama", objective=None, job="job", hooks=(), **params) -> Setup`` of a fresh network."""
    from ingot.artifacts.schema import build
    from ingot.stages.model.checkpoint import Checkpoint
    from ingot.stages.train.network import Network
    from ingot.stages.train.objective import NextToken
    from ingot.stages.train.params import TrainParams
    from ingot.stages.train.text import read_corpus
    from ingot.stages.train.trainer import Setup

    def make(family="llama", objective=None, job="job", dtype="float32", extra=(), **params: object) -> Setup:
        given = {
            "training_text": str(text_file),
            "window": 16,
            "batch_size": 4,
            "steps": 6,
            "evaluate_every": 2,
        }
        built = build(TrainParams, {**given, **params})
        source = Checkpoint.open(tiny_checkpoint(family, dtype))
        directory = tmp_path / job
        directory.mkdir(exist_ok=True)
        network = Network.load(source)
        return Setup(
            network.module, objective or NextToken(), read_corpus(source, built, [].append), built, directory,
            "the same", stored=network.stored, **dict(extra),
        )  # fmt: skip

    return make
