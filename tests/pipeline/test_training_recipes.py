"""Trainings from a recipe to a verdict: the whole chain, a teacher that does not fit, and a second run."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import ingot
import pytest
from ingot.artifacts.errors import InputError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

SENTENCE = "The river ran past mill number {} and the road ran with the river to the town. "


def text(path: Path, first: int, count: int = 12) -> Path:
    """Documents that no text of another ``first`` has."""
    path.write_text("\n<|endoftext|>\n".join(SENTENCE.format(first + n) * 4 for n in range(count)))
    return path


def run(tmp_path: Path, model: Path, **arguments: Any) -> Any:
    return ingot.run(
        model=model,
        data={
            "evaluation": text(tmp_path / "held-out.txt", 0),
            "training": text(tmp_path / "train.txt", 100),
            "calibration": text(tmp_path / "calibration.txt", 200),
        },
        measure={"cost": {"repeats": 1, "passes": 1}},
        store=tmp_path / "store",
        out=tmp_path / "out",
        **arguments,
    )


@pytest.mark.slow
def test_merge_prune_distill_quantize_export_and_gate_are_one_recipe(
    tiny_checkpoint: Any, tmp_path: Path
) -> None:
    model = tiny_checkpoint("llama")
    stages = {
        "merge": {"method": "linear", "models": [{"model": str(model), "weight": 1.0}]},
        "prune": {"method": "structured", "ffn": 0.25, "samples": 8, "window": 32},
        "distill": {
            "teacher": "load", "steps": 6, "evaluate_every": 3, "window": 32, "batch_size": 4,
            "learning_rate": 1e-3,
        },
        "quantize": {"method": "gptq", "bits": 8, "samples": 8, "window": 32},
    }  # fmt: skip
    gates = {"perplexity": {"max_increase": "900%"}, "parity_max_error": "none"}
    done = run(tmp_path, model, targets=["cpu"], stages=stages, gates=gates)
    assert done.verdict == "pass"
    nodes = {node.name: node for node in done.report.nodes}
    assert nodes["distill"].inputs == {"model": "prune", "teacher": "load"}
    (training,) = done.report.trainings
    assert (training.node, training.steps) == ("distill", 6)
    assert training.reference is not None
    assert training.end is not None
    assert training.start is not None
    assert training.end <= training.start
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "distill: loss" in page
    again = run(tmp_path, model, targets=["cpu"], stages=stages, gates=gates)
    assert {node.state for node in again.report.nodes} == {"hit"}
    assert again.report.trainings == done.report.trainings


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
def test_prune_distill_train_codes_export_and_gate_are_one_recipe(
    tiny_checkpoint: Any, tmp_path: Path
) -> None:
    learn = {"steps": 4, "evaluate_every": 2, "window": 32, "batch_size": 4, "learning_rate": 1e-3}
    stages = {
        "prune": {"method": "magnitude", "sparsity": 0.5},
        "distill": {"teacher": "load", **learn},
        "codes": {"stage": "quantize.gptq", "params": {"bits": 4, "samples": 8, "window": 32}},
        "trained": {"stage": "quantize.qat", "params": {"teacher": "load", "original": "distill", **learn}},
    }
    gates = {"perplexity": {"max_increase": "900%"}, "parity_max_error": "none"}
    targets = {"cpu": {"from": "trained"}}
    done = run(tmp_path, tiny_checkpoint("llama"), targets=targets, stages=stages, gates=gates)
    assert done.verdict == "pass"
    nodes = {node.name: node for node in done.report.nodes}
    assert nodes["trained"].inputs == {"model": "codes", "teacher1": "load", "original1": "distill"}
    assert [training.node for training in done.report.trainings] == ["distill", "trained"]
    trained = done.report.trainings[-1]
    assert trained.end is not None
    assert trained.start is not None
    assert trained.end <= trained.start
    made = [
        json.loads(path.read_text())["facts"]
        for path in (tmp_path / "store" / "trees").glob("*/artifact.json")
    ]
    codes = [each for each in made if each.get("method") == "qat"]
    assert codes
    for facts in codes:
        assert facts["input_sparsity"] > 0.4  # half of all but the output head
        assert facts["zeros_kept"] == 1


@pytest.mark.parametrize(
    ("stage", "what"),
    [
        ("distill: {teacher: load, steps: 3}", "distill: there is no training text"),
        ("prune: {method: structured, ffn: 1.5}", "prune.ffn: 1.5 is neither"),
        (
            "finetune: {training_text: t.txt, steps: 3, epochs: 2.0, method: full}",
            "finetune: steps and epochs",
        ),
        (
            "finetune: {training_text: t.txt, ema_decay: 1.0, method: full}",
            "finetune.ema_decay: 1 never moves",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named_with_their_stage_and_line(
    stage: str, what: str, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("a text")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {tiny_checkpoint('llama')}\ntargets: [cpu]\nstages:\n  {stage}\n")
    with pytest.raises(RecipeError) as caught:
        ingot.plan(recipe, store=tmp_path / "store")
    assert caught.value.what.startswith(what)
    assert caught.value.where == f"{recipe}:4"


def test_a_teacher_in_a_targets_own_quantize_is_refused(tiny_checkpoint: Any, tmp_path: Path) -> None:
    quantize = {"method": "qat", "bits": 4, "teacher": "load"}
    with pytest.raises(RecipeError, match="teacher: 'load' is another input") as caught:
        run(tmp_path, tiny_checkpoint("llama"), targets={"cpu": {"quantize": quantize}})
    assert "quantize.qat" in str(caught.value.fix)


def test_a_teacher_with_other_tokens_is_refused_before_anything_runs(
    tiny_checkpoint: Any, tmp_path: Path
) -> None:
    model = tiny_checkpoint("llama")
    other = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    first, second = (next(word for word, number in words.items() if number == n) for n in (100, 101))
    words[first], words[second] = 101, 100
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"^distill: teacher and student have different vocabularies"):
        run(tmp_path, model, targets=["cpu-fp32"], stages={"distill": {"teacher": str(other), "steps": 1}})
    assert not (tmp_path / "out").exists()


def test_without_a_training_text_training_is_refused(tiny_checkpoint: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no training text"):
        ingot.run(
            model=tiny_checkpoint("llama"), targets=["cpu-fp32"], store=tmp_path / "store",
            out=tmp_path / "out", stages={"finetune": {"method": "full"}},
        )  # fmt: skip
