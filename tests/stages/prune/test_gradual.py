"""`prune.gradual`: its schedule by hand, its masks, and what the stage writes, keeps and refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ingot.artifacts.errors import InputError, RecipeError
from ingot.artifacts.schema import build
from ingot.artifacts.tensors import TensorSource
from ingot.stages.prune.gradual import GradualParams
from ingot.stages.prune.schedule import Schedule

STAGE = "prune.gradual"
LEARN = {"window": 16, "batch_size": 4, "steps": 8, "learning_rate": 3e-3, "evaluate_every": 1}


@pytest.fixture
def prune(run_stage, text_file):
    def go(model, **params):
        inputs = {"model": model, **params.pop("inputs", {})}
        return run_stage(STAGE, inputs, **{"training_text": str(text_file), **LEARN, **params})

    return go


def test_the_schedule_is_the_cubic_one_of_the_paper():
    schedule = Schedule.over(steps=16, share=0.5, initial=0.0, frequency=2)
    assert [done for done in range(17) if schedule.prunes(done)] == [2, 4, 6, 8]
    # 0.8·(1 - (1 - t/8)³): ¾³ = 27/64, ½³ = 1/8, ¼³ = 1/64.
    expected = [0.0, 0.8 * 37 / 64, 0.8 * 7 / 8, 0.8 * 63 / 64, 0.8, 0.8]
    assert [schedule.sparsity(0.8, done) for done in (0, 2, 4, 6, 8, 12)] == pytest.approx(expected)
    started = Schedule(initial=0.2, end=4, frequency=1)
    assert [started.sparsity(0.6, done) for done in (0, 2, 4)] == pytest.approx([0.2, 0.6 - 0.4 / 8, 0.6])
    assert started.sparsity(0.1, 0) == 0.1  # a weight that ends lower than others begin


def test_the_last_pruning_is_where_the_ramp_ends_even_between_two():
    schedule = Schedule.over(steps=10, share=0.5, initial=0.0, frequency=3)
    assert [done for done in range(11) if schedule.prunes(done)] == [3, 5]
    assert Schedule.over(steps=400, share=0.5, initial=0.0, frequency=None).frequency == 20
    assert Schedule.over(steps=1, share=0.0, initial=0.0, frequency=None).prunes(1)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "mixtral", "t5"])
@pytest.mark.parametrize("target", [{"sparsity": 0.6}, {"pattern": "2:4"}])
def test_what_is_written_has_the_sparsity_that_was_asked_for_and_is_no_worse_than_at_once(
    family, target, tiny_checkpoint, prune
):
    observed: dict[str, object] = {}
    source = tiny_checkpoint(family, "bfloat16")
    made = prune(source, observed=observed, **target)
    before, after = (TensorSource.open([each / "model.safetensors"]) for each in (source, made.path))
    assert [(n, after.info(n).dtype) for n in after.names()] == [
        (n, before.info(n).dtype) for n in before.names()
    ]
    share = target.get("sparsity", 0.5)
    turned = family == "gpt2"
    for name in made.facts["sparsity_by_weight"]:
        weight = after.float32(name).T if turned else after.float32(name)
        assert (weight == 0).sum() == round(share * weight.size), name
        if "pattern" in target:
            assert ((weight.reshape(len(weight), -1, 4) != 0).sum(-1) == 2).all(), name
    curve = dict(observed["training"]["selection"])
    behind = observed["pruned_behind"]
    assert made.facts["trained_steps"] >= behind == 4
    assert curve[made.facts["trained_steps"]] == min(v for done, v in curve.items() if done >= behind)
    assert curve[made.facts["trained_steps"]] < observed["at_once_loss"]


def test_where_training_is_no_good_the_model_is_what_pruning_at_once_gives(tiny_checkpoint, prune, run_stage):
    source, notes = tiny_checkpoint("llama"), []
    made = prune(source, sparsity=0.5, learning_rate=50.0, max_grad_norm=0.0, warmup=0.0, notes=notes)
    plain = run_stage("prune.magnitude", {"model": source}, sparsity=0.5)
    assert (made.path / "model.safetensors").read_bytes() == (plain.path / "model.safetensors").read_bytes()
    assert made.facts["trained_steps"] == 0
    assert made.facts["sparsity_by_weight"] == plain.facts["sparsity_by_weight"]
    assert any("no better than pruning at once" in note for note in notes)


def test_zeros_that_a_model_comes_with_stay(tiny_checkpoint, prune, run_stage):
    before = run_stage("prune.magnitude", {"model": tiny_checkpoint("llama")}, sparsity=0.3)
    made = prune(before, sparsity=0.5)
    old, new = (TensorSource.open([each.path / "model.safetensors"]) for each in (before, made))
    for name in made.facts["sparsity_by_weight"]:
        assert (new.float32(name)[old.float32(name) == 0] == 0).all()
        assert np.count_nonzero(new.float32(name)) == new.float32(name).size - round(
            0.5 * new.float32(name).size
        )


def test_an_interrupted_pruning_ends_with_the_weights_of_one_that_was_not(make_setup):
    import dataclasses

    from ingot.stages.model.checkpoint import Checkpoint
    from ingot.stages.model.sparsity import Target
    from ingot.stages.prune.schedule import GradualMasks
    from ingot.stages.train.hooks import Hook
    from ingot.stages.train.network import Network
    from ingot.stages.train.trainer import train

    class Killed(Exception):
        """In place of a kill."""

    class KillAt(Hook):
        def stepped(self, done: int) -> None:
            if done == 3:
                raise Killed

    def setup(job, *more):
        made = make_setup(job=job, learning_rate=3e-3, evaluate_every=2)
        source = Checkpoint.open(made.network.config._name_or_path and directory(made))
        linears = {each.name: each for each in source.architecture.linears if each.layer is not None}
        masks = GradualMasks(
            Network(source, made.network), linears, dict.fromkeys(linears, Target(0.5)), Schedule(0.0, 4, 1)
        )
        return dataclasses.replace(made, hooks=(masks, *more), first_result=4)

    def directory(made):
        from pathlib import Path

        return Path(made.network.config._name_or_path)

    whole = setup("whole")
    expected = train(whole)
    with pytest.raises(Killed):
        train(setup("killed", KillAt()))
    again = setup("killed")
    assert train(again) == expected
    for name, value in whole.network.named_parameters():
        assert torch.equal(value, again.network.get_parameter(name)), name


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"initial_sparsity": 0.5}, "initial_sparsity: 0.5 is not below 0.5"),
        ({"ema_decay": 0.9}, "ema_decay: a mean of weights"),
        ({"keep_zeros": False}, "keep_zeros: false would let grow back"),
        ({"sparsity": 1.0}, "is not above 0 and below 1"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "are two targets"),
    ],
)
def test_values_that_do_not_go_together_are_refused(params, message):
    with pytest.raises(RecipeError, match=message):
        build(GradualParams, {"training_text": "t", **params})


def test_models_that_predict_nothing_and_lessons_without_a_teacher_are_refused(tiny_checkpoint, prune):
    with pytest.raises(InputError, match="is of the task encoder"):
        prune(tiny_checkpoint("bert"))
    with pytest.raises(RecipeError, match="alpha has no effect: there is no teacher"):
        prune(tiny_checkpoint("llama"), alpha=0.5)


def test_a_teacher_is_listened_to(tiny_checkpoint, prune):
    source, observed = tiny_checkpoint("llama"), {}
    made = prune(source, inputs={"teacher1": source}, teacher="teacher1", observed=observed, sparsity=0.5)
    assert "divergence" in observed["training"]["parts"]
    assert made.facts["trained_steps"] > 0
