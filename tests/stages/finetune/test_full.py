"""`finetune.full` as a stage: what it writes, keeps, says and refuses."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.artifacts.errors import DataError, InputError, RecipeError, StageError
from ingot.artifacts.tensors import TensorSource

from ..conftest import TEXT

STAGE = "finetune.full"
LEARN = {"window": 16, "batch_size": 4, "steps": 8, "learning_rate": 5e-3}


@pytest.mark.parametrize("family", ["llama-tied", "qwen2", "gpt2", "mixtral"])
def test_a_model_learns_a_text_and_stays_a_checkpoint_of_its_kind(
    family, tiny_checkpoint, text_file, run_stage
):
    source = tiny_checkpoint(family, "bfloat16")
    made = run_stage(STAGE, {"model": source}, training_text=str(text_file), **LEARN)
    assert made.facts["trained_by"] == STAGE
    assert made.facts["trained_steps"] > 0
    before, after = (TensorSource.open([each / "model.safetensors"]) for each in (source, made.path))
    stored = [
        [(name, each.info(name).dtype, each.info(name).shape) for name in each.names()]
        for each in (before, after)
    ]
    assert stored[0] == stored[1]
    assert any(bytes(before.raw(name)) != bytes(after.raw(name)) for name in before.names())
    assert (made.path / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("keep", [True, False])
def test_pruned_weights_stay_pruned_unless_they_may_grow_back(keep, tiny_checkpoint, text_file, run_stage):
    pruned = run_stage("prune.magnitude", {"model": tiny_checkpoint("llama")}, pattern="2:4")
    made = run_stage(STAGE, {"model": pruned}, training_text=str(text_file), keep_zeros=keep, **LEARN)
    assert made.facts["trained_steps"] > 0
    before, after = (TensorSource.open([each / "model.safetensors"]) for each in (pruned.path, made.path))
    weights = pruned.facts["sparsity_by_weight"]
    grown = sum(int(((before.float32(n) == 0) & (after.float32(n) != 0)).sum()) for n in weights)
    assert (grown == 0) == keep
    assert ("sparsity_kept" in made.facts) == keep
    if keep:
        name = next(iter(weights))
        assert np.count_nonzero(after.float32(name).reshape(-1, 4), axis=1).max() <= 2


def test_an_absurd_learning_rate_gives_the_model_back_and_says_so(tiny_checkpoint, text_file, run_stage):
    source, notes = tiny_checkpoint("llama", "bfloat16"), []
    options = {**LEARN, "learning_rate": 50.0, "max_grad_norm": 0.0, "warmup": 0.0}
    made = run_stage(STAGE, {"model": source}, notes=notes, training_text=str(text_file), **options)
    assert made.facts["trained_steps"] == 0
    assert (made.path / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert notes == ["training found nothing better than the weights it began with, which are returned"]


def test_a_diverging_loss_is_an_error_that_names_the_last_good_checkpoint(
    tiny_checkpoint, text_file, run_stage, monkeypatch
):
    import math

    from ingot.stages.train import objective

    seen: list[int] = []
    real = objective.NextToken.loss

    def broken(self, network, batch):
        seen.append(1)
        found = real(self, network, batch)
        return objective.Loss(found.total * math.nan) if len(seen) == 6 else found

    monkeypatch.setattr(objective.NextToken, "loss", broken)
    with pytest.raises(
        StageError, match="training diverged: the loss is not finite at step 6 of 8"
    ) as caught:
        run_stage(STAGE, {"model": tiny_checkpoint("llama")}, training_text=str(text_file), **LEARN)
    from pathlib import Path

    kept = Path(str(caught.value.where))
    again = run_stage("load", {}, model=str(kept))
    assert again.facts["parameters"] > 0
    assert np.isfinite(TensorSource.open([kept / "model.safetensors"]).float32("lm_head.weight")).all()


def test_frozen_parameters_are_written_byte_for_byte(tiny_checkpoint, text_file, run_stage):
    source = tiny_checkpoint("llama", "bfloat16")
    made = run_stage(STAGE, {"model": source}, training_text=str(text_file), freeze=["*.mlp.*"], **LEARN)
    before, after = (TensorSource.open([each / "model.safetensors"]) for each in (source, made.path))
    same = {name for name in before.names() if bytes(before.raw(name)) == bytes(after.raw(name))}
    assert {name for name in before.names() if ".mlp." in name} <= same
    assert "model.layers.0.self_attn.q_proj.weight" not in same


def test_encoders_are_refused_while_planning(tiny_checkpoint):
    from ingot.stages import base

    for name in (STAGE, "finetune.lora"):
        check, params = base.get(name).preflight, base.get(name).params(training_text="text")
        check(params, {"model": tiny_checkpoint("t5")})
        with pytest.raises(
            InputError, match=f"{name}: bert is of the task encoder, which predicts no next token"
        ):
            check(params, {"model": tiny_checkpoint("bert")})


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("name", [STAGE, "finetune.lora"])
def test_an_encoder_decoder_learns_pairs(name, family, tiny_checkpoint, tmp_path, run_stage):
    import json

    source, pairs = tiny_checkpoint(family), tmp_path / "pairs.jsonl"
    words = TEXT.split()[:12]
    lines = [{"source": f"say {word} now", "target": f"{word} {word}"} for word in words * 3]
    pairs.write_text("\n".join(json.dumps(line) for line in lines))
    observed = {}
    made = run_stage(
        name, {"model": source}, observed=observed, training_text=str(pairs), selection_text=str(pairs),
        evaluate_every=5, **{**LEARN, "steps": 20, "learning_rate": 1e-2},
    )  # fmt: skip
    assert made.facts["trained_steps"] > 0
    # What transformers itself says of the loss, pair by pair, with its own labels.
    losses = [_loss_of_transformers(each, lines) for each in (source, made.path)]
    selection = dict(observed["training"]["selection"])
    assert losses[0] == pytest.approx(selection[0], rel=1e-4)
    assert losses[1] == pytest.approx(min(selection.values()), rel=1e-4)
    assert losses[1] < losses[0] - 0.1


def _loss_of_transformers(directory, lines) -> float:
    import torch
    import transformers
    from ingot.stages.model.tokens import load_tokenizer

    tokenizer = load_tokenizer(directory)
    module = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=torch.float32).eval()
    total = count = 0
    for line in lines:
        source, target = (torch.tensor([tokenizer.encode(line[key]).ids]) for key in ("source", "target"))
        with torch.no_grad():
            total += float(module(input_ids=source, labels=target).loss) * target.numel()
        count += target.numel()
    return total / count


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "there is no training text"),
        ({"training_text": "t", "steps": 1, "epochs": 1.0}, "steps and epochs are two lengths"),
        ({"training_text": "t", "learning_rate": 0.0}, "learning_rate: 0 trains nothing"),
        ({"training_text": "t", "accumulation": 9}, "accumulation: 9 parts of a batch of 8"),
        ({"training_text": "t", "betas": [0.9]}, "betas:"),
        ({"training_text": "t", "betas": [0.9, 1.0]}, "betas:"),
        ({"training_text": "t", "ema_decay": 1.0}, "ema_decay: 1 never moves"),
        ({"training_text": "t", "log_directory": "d"}, "log_directory has no effect"),
        ({"training_text": "t", "groups": {"*": {"lr": 1.0}}}, r"groups.\*.lr is not a known name"),
        ({"training_text": "t", "groups": {"*": {}}}, r"groups.\* changes nothing"),
        ({"training_text": "t", "groups": {"*": {"learning_rate": -1}}}, "is not a number from 0"),
        ({"training_text": "t", "schedule": "cosin"}, "is not one of"),
    ],
)
def test_values_that_make_no_training_are_refused(params, message, run_stage):
    with pytest.raises(RecipeError, match=message):
        run_stage(STAGE, {}, **params)


def test_a_text_that_is_not_there_is_named(tiny_checkpoint, tmp_path, run_stage):
    with pytest.raises(DataError, match="the training text cannot be read"):
        run_stage(STAGE, {"model": tiny_checkpoint("llama")}, training_text=str(tmp_path / "none.txt"))
