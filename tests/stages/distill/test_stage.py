"""`distill` as a stage: what it teaches, keeps and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ingot.artifacts.errors import InputError, RecipeError
from ingot.artifacts.schema import build
from ingot.artifacts.tensors import TensorSource
from ingot.stages import base
from ingot.stages.distill.stage import DistillParams, expand, preflight
from ingot.stages.model.checkpoint import Checkpoint

from ..conftest import TEXT

STAGE = "distill"
LEARN = {"window": 16, "batch_size": 4, "steps": 8, "learning_rate": 3e-3}


def disturbed(source: Path, target: Path) -> Path:
    """The same checkpoint with some noise on its maps, which a teacher can take out again."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    found = load_file(source / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, value in sorted(found.items()):
        if value.ndim == 2 and "embed" not in name and "wte" not in name and "wpe" not in name:
            value += 0.2 * value.float().std() * torch.randn(value.shape, generator=generator).to(value.dtype)
    save_file(found, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture
def run(run_stage, text_file):
    def go(student, teacher, **params):
        return run_stage(
            STAGE, {"model": student, "teacher": teacher},
            **{"training_text": str(text_file), "teacher": "teacher", **LEARN, **params},
        )  # fmt: skip

    return go


def distance(one: Path, other: Path) -> float:
    """The mean squared difference of what two checkpoints give for a text."""
    from ingot.stages.model.tokens import load_tokenizer
    from ingot.stages.model.torch_network import load_module

    ids = torch.tensor([load_tokenizer(one).encode(TEXT).ids[:24]])
    found = []
    for directory in (one, other):
        task = Checkpoint.open(directory).architecture.task
        module = load_module(directory, task).eval()
        with torch.no_grad():
            made = module(ids)
        found.append(made.logits if task == "causal-lm" else made.last_hidden_state)
    return float((found[0] - found[1]).square().mean())


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "mixtral"])
def test_a_student_comes_nearer_to_its_teacher(family, tiny_checkpoint, tmp_path, run):
    teacher = tiny_checkpoint(family)
    student = disturbed(teacher, tmp_path / "student")
    made = run(student, teacher)
    assert made.facts["trained_by"] == STAGE
    assert made.facts["trained_steps"] > 0
    assert distance(made.path, teacher) < distance(student, teacher)


@pytest.mark.parametrize(("family", "options"), [("t5", {"attention": 1.0}), ("bart", {"top_k": 8})])
def test_an_encoder_decoder_comes_nearer_to_one_that_has_learned_pairs(
    family, options, tiny_checkpoint, tmp_path, run, run_stage
):
    lines = [{"source": f"say {word} now", "target": f"{word} {word}"} for word in TEXT.split()[:12] * 3]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    texts = {"training_text": str(path), "selection_text": str(path), "window": 32}
    learn = {"steps": 20, "batch_size": 4, "learning_rate": 1e-2, "evaluate_every": 20}
    teacher = run_stage("finetune.full", {"model": tiny_checkpoint(family)}, **texts, **learn)
    student = disturbed(teacher.path, tmp_path / "student")
    observed: dict[str, object] = {}
    gentle = {"learning_rate": 1e-3, "steps": 12, "evaluate_every": 12}
    made = run(student, teacher, observed=observed, **texts, **gentle, **options)
    assert made.facts["trained_steps"] == 12
    curve, taught = dict(observed["training"]["selection"]), observed["reference_loss"]
    assert taught < curve[12] < taught + 0.7 * (curve[0] - taught)
    # Its shape is the teacher's, so that hidden states count of themselves, unless predictions are kept.
    expected = {"divergence", "attention", "hidden"} if family == "t5" else {"divergence"}
    assert observed["training"]["parts"].keys() == expected


@pytest.mark.parametrize(
    "options",
    [
        {"divergence": "reverse"},
        {"divergence": "js", "temperature": 2.0},
        {"alpha": 0.5},
        {"top_k": 8, "steps": None, "epochs": 3.0},
        {"hidden": 1.0},
        {"hidden": 0.5, "attention": 1.0, "layer_map": [0, 1]},
    ],
)
def test_every_loss_brings_a_student_nearer(options, tiny_checkpoint, tmp_path, run):
    teacher = tiny_checkpoint("llama")
    student = disturbed(teacher, tmp_path / "student")
    assert distance(run(student, teacher, **options).path, teacher) < distance(student, teacher)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_encoders_learn_the_last_hidden_state(family, tiny_checkpoint, tmp_path, run):
    teacher = tiny_checkpoint(family)
    student = disturbed(teacher, tmp_path / "student")
    made = run(student, teacher)
    assert made.facts["trained_steps"] > 0
    assert distance(made.path, teacher) < 0.9 * distance(student, teacher)


@pytest.mark.parametrize("family", ["llama", "t5", "bart"])
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(family, make_setup):
    from ingot.stages.train.distillation import Distillation, Terms
    from ingot.stages.train.halves import halves
    from ingot.stages.train.network import Network

    setup = make_setup(family)
    source = Checkpoint.open(Path(setup.network.config._name_or_path))
    teacher = Network.load(source).module
    terms = Terms("forward", 2.0, 1.0, 1.0, 0.0)
    objective = Distillation(terms, teacher, halves(source.architecture, source.architecture))
    batch = setup.corpus.training.batch(np.arange(3), torch.device("cpu"))
    loss = objective.loss(setup.network, batch)
    loss.total.backward()
    assert abs(loss.total.item()) < 1e-5 * batch.predicted.sum()
    gradients = [each.grad for each in setup.network.parameters() if each.grad is not None]
    assert max(float(each.abs().max()) for each in gradients) < 1e-4


def test_hidden_states_count_by_default_where_each_layer_is_one_of_the_teachers(tiny_checkpoint, text_file):
    from dataclasses import replace

    from ingot.stages.distill.stage import DistillParams, terms_of

    llama, bert = (Checkpoint.open(tiny_checkpoint(family)).architecture for family in ("llama", "bert"))
    shorter = replace(llama, layers=llama.layers[:1])
    params = DistillParams(training_text=str(text_file))
    weights = [terms_of(params, student, llama).hidden for student in (llama, shorter)]
    assert weights == [5.0, 0.0]
    assert terms_of(params, bert, bert).hidden == 1.0
    assert terms_of(replace(params, top_k=8), llama, llama).hidden == 0.0
    assert terms_of(replace(params, hidden=0.5), shorter, llama).hidden == 0.5


def test_terms_add_up_as_their_formula_says(make_setup):
    from ingot.stages.train.distillation import Distillation, Terms
    from ingot.stages.train.objective import next_token

    setup, other = make_setup("llama"), make_setup("qwen2")
    objective = Distillation(Terms("forward", 3.0, 0.25, 0.0, 0.0), other.network)
    batch = setup.corpus.training.batch(np.arange(2), torch.device("cpu"))
    with torch.no_grad():
        logs = [
            (net(batch.ids).logits[:, :-1] / 3).log_softmax(-1).double()
            for net in (setup.network, other.network)
        ]
        expected = 0.25 * 9 * (logs[1].exp() * (logs[1] - logs[0])).sum()
        expected += 0.75 * next_token(setup.network, batch)
        found = objective.loss(setup.network, batch)
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-4)


def test_what_is_kept_of_the_teacher_gives_the_steps_that_asking_it_gives(
    make_setup, tiny_checkpoint, tmp_path, monkeypatch
):
    from ingot.stages.train.distillation import Distillation, Terms
    from ingot.stages.train.network import Network
    from ingot.stages.train.teacher_cache import Cache
    from ingot.stages.train.trainer import train

    teacher, asked, histories = Network.load(Checkpoint.open(tiny_checkpoint("qwen2"))).module, [], []
    forward = teacher.forward
    monkeypatch.setattr(teacher, "forward", lambda *a, **k: asked.append(1) or forward(*a, **k))
    for name in ("kept", "asked"):
        setup = make_setup(job=name, steps=30, evaluate_every=30)
        cache = Cache(tmp_path / "cache", setup.corpus.training, 16) if name == "kept" else None
        objective = Distillation(Terms("forward", 1.0, 1.0, 0.0, 0.0), teacher, cache=cache, top_k=16)
        asked.clear()
        import dataclasses

        histories.append((train(dataclasses.replace(setup, objective=objective)), len(asked)))
    (kept, few), (plain, all_steps) = histories
    assert [loss for _, loss, _ in kept.steps] == pytest.approx(
        [loss for _, loss, _ in plain.steps], rel=1e-5
    )
    assert all_steps == 30
    assert few < 30


@pytest.mark.parametrize("teacher", ["vocabulary", "ids", "task", "start"])
def test_a_teacher_with_other_tokens_or_of_another_task_is_refused_before_anything_runs(
    teacher, tiny_checkpoint, tmp_path
):
    source = tiny_checkpoint("t5" if teacher == "start" else "llama")
    other = shutil.copytree(tiny_checkpoint("bert") if teacher == "task" else source, tmp_path / "other")
    if teacher == "vocabulary":
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps({**config, "vocab_size": 321}))
        message = r"different vocabularies: the teacher has 321 tokens, the student 320"
    elif teacher == "ids":
        tokenizer = json.loads((other / "tokenizer.json").read_text())
        words = tokenizer["model"]["vocab"]
        first, second = (next(word for word, number in words.items() if number == n) for n in (100, 101))
        words[first], words[second] = 101, 100
        (other / "tokenizer.json").write_text(json.dumps(tokenizer))
        message = r"different vocabularies: token 100 is "
    elif teacher == "start":
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps({**config, "decoder_start_token_id": 1}))
        message = "the teacher's targets begin with token 1, the student's with 2"
    else:
        message = "the student is of the task causal-lm, the teacher of encoder"
    params = build(DistillParams, {"training_text": "t"})
    with pytest.raises(InputError, match=message):
        preflight(params, {"model": source, "teacher": other})


@pytest.mark.parametrize(
    ("family", "params", "message"),
    [
        ("bert", {"alpha": 0.5}, "is an encoder and predicts no tokens"),
        ("bert", {"top_k": 4}, "is an encoder and predicts no tokens"),
        ("llama", {"hidden": 1.0, "encoder_layer_map": [0, 1]}, "llama is no encoder-decoder"),
        ("t5", {"hidden": 1.0, "encoder_layer_map": [0, 1]}, "encoder_layer_map names 2 layers, .* has 3"),
        ("t5", {"attention": 1.0, "layer_map": [0, 2]}, "layer_map: the teacher has no layer 2"),
        ("llama", {"hidden": 1.0, "layer_map": [0, 5]}, "the teacher has no layer 5"),
    ],
)
def test_pairs_that_cannot_teach_are_refused(family, params, message, tiny_checkpoint):
    directory = tiny_checkpoint(family)
    built = build(DistillParams, {"training_text": "t", **params})
    with pytest.raises(InputError, match=message):
        preflight(built, {"model": directory, "teacher": directory})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layer_map": [0]}, "layer_map has no effect"),
        ({"encoder_layer_map": [0]}, "encoder_layer_map has no effect"),
        ({"top_k": 4, "hidden": 1.0}, "top_k keeps predictions"),
        ({"alpha": 1.5}, "alpha: 1.5 is above"),
        ({"divergence": "kl"}, "is not one of forward, reverse, js"),
    ],
)
def test_values_that_do_not_go_together_are_refused(params, message):
    with pytest.raises(RecipeError, match=message):
        build(DistillParams, {"training_text": "t", **params})


def test_the_teacher_is_a_node_and_no_path_gets_into_the_key():
    found = expand({"teacher": "./big", "alpha": 0.5}, Path(), "load")
    assert found.values == {"teacher": "teacher", "alpha": 0.5}
    assert found.sources["teacher"].name == "./big"
    assert expand({"alpha": 0.5}, Path(), "load").sources == {}
    assert set(base.get(STAGE).inputs) == {"model", "teacher"}


def test_pruned_students_stay_pruned(tiny_checkpoint, run, run_stage):
    teacher = tiny_checkpoint("llama")
    pruned = run_stage("prune.magnitude", {"model": teacher}, sparsity=0.5)
    made = run(pruned, teacher)
    assert made.facts["trained_steps"] > 0
    before, after = (TensorSource.open([each / "model.safetensors"]) for each in (pruned.path, made.path))
    for name in pruned.facts["sparsity_by_weight"]:
        assert (after.float32(name)[before.float32(name) == 0] == 0).all()
