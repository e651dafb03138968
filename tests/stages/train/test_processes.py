"""A training in several processes: the weights of one."""

from __future__ import annotations

import os

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError
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


def test_a_batch_is_not_divided_into_less_than_windows(run_stage):
    with pytest.raises(RecipeError, match="accumulation and processes: 6 parts of a batch of 4 windows"):
        run_stage("finetune.full", {}, training_text="t", batch_size=4, accumulation=3, processes=2)
