"""A training in several processes: the weights of one, and an error where one of them ends."""

from __future__ import annotations

import multiprocessing
import os

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError, StageError
from ingot.artifacts.tensors import TensorSource

LEARN = {"window": 16, "batch_size": 4, "steps": 3, "evaluate_every": 3, "learning_rate": 1e-3}


@pytest.mark.slow
def test_two_processes_write_what_one_does(tiny_checkpoint, text_file, run_stage):
    inputs = {"model": tiny_checkpoint("llama"), "teacher": tiny_checkpoint("qwen2")}
    options = {"training_text": str(text_file), "teacher": "teacher", "top_k": 16, **LEARN}
    environment = dict(os.environ)
    one, two = (run_stage("distill", inputs, processes=count, **options) for count in (1, 2))
    assert dict(os.environ) == environment
    assert one.facts["trained_steps"] == two.facts["trained_steps"]
    before, after = (TensorSource.open([each.path / "model.safetensors"]) for each in (one, two))
    for name in before.names():
        np.testing.assert_allclose(after.float32(name), before.float32(name), rtol=1e-3, atol=1e-5)


def in_two(tiny_checkpoint, text_file, run_stage):
    inputs = {"model": tiny_checkpoint("llama")}
    return run_stage("finetune.full", inputs, training_text=str(text_file), processes=2, **LEARN)


def test_a_process_that_ends_before_it_joins_is_named(tiny_checkpoint, text_file, run_stage, monkeypatch):
    from ingot.stages.train import processes

    monkeypatch.setattr(processes, "_help", len)  # which takes no such arguments
    with pytest.raises(StageError, match="a process of the training ended with status 1"):
        in_two(tiny_checkpoint, text_file, run_stage)


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_trains_is_named(
    tiny_checkpoint, text_file, run_stage, monkeypatch
):
    from ingot.stages.train import trainer

    genuine = trainer.rows_of

    def rows_of(step, *rest):
        if step == 1:
            for helper in multiprocessing.active_children():
                helper.kill()
        return genuine(step, *rest)

    monkeypatch.setattr(trainer, "rows_of", rows_of)
    with pytest.raises(StageError, match="a process of the training ended with status -9"):
        in_two(tiny_checkpoint, text_file, run_stage)


def test_a_batch_is_not_divided_into_less_than_windows(run_stage):
    with pytest.raises(RecipeError, match="accumulation and processes: 6 parts of a batch of 4 windows"):
        run_stage("finetune.full", {}, training_text="t", batch_size=4, accumulation=3, processes=2)
