"""Recipes: what may be written, where each value comes from, and how everything else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from ingot.artifacts.errors import DataError, IngotError, RecipeError, RequirementError
from ingot.pipeline import layers, recipe
from ingot.pipeline.data import BUNDLED, BUNDLED_ORIGIN, texts_of
from ingot.pipeline.recipe import Recipe

Load = Callable[[str], Recipe]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Reads a recipe beside a folder `ckpt` and two texts that have nothing in common."""
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "a.txt").write_text("one\n<|endoftext|>\ntwo\n<|endoftext|>\nthree\n")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ("four", "five")))

    def load(text: str) -> Recipe:
        path = tmp_path / "ingot.yaml"
        path.write_text(text)
        return recipe.load_recipe(path)

    return load


def settings(found: Recipe) -> dict[tuple[str, ...], tuple[object, str]]:
    """Values and the ends of their origins, by path."""
    return {s.path: (s.value, s.origin.rpartition("/")[2]) for s in found.settings}


def test_the_smallest_recipe_names_a_model_and_builds_for_this_kind_of_cpu(
    load: Load, tmp_path: Path
) -> None:
    found = load("model: ckpt\n")
    assert found.model == str(tmp_path / "ckpt")
    assert [(target.name, target.profile) for target in found.targets] == [("cpu", "cpu")]
    assert (found.seed, found.reference, found.steps, found.out) == (0, "load", (), None)


def test_a_whole_recipe_is_read_with_the_line_of_every_value(load: Load, tmp_path: Path) -> None:
    found = load(
        "model: ./ckpt\n"
        "targets:\n"
        "  cpu:\n"
        "    quantize: {method: rtn, bits: 8}\n"
        "    gates: {size: {max: 60MB}}\n"
        "  cpu-int8:\n"
        "data:\n"
        "  calibration: b.jsonl\n"
        "  evaluation: a.txt\n"
        "stages:\n"
        "  quantize: dynamic\n"
        "measure: {cost: {repeats: 3}}\n"
        "gates:\n"
        "  perplexity: {max_increase: 1%}\n"
        "seed: 7\n"
        "out: dist\n"
    )
    assert settings(found) == {
        ("quantize", "method"): ("dynamic", "ingot.yaml:11"),
        ("cost", "repeats"): (3, "ingot.yaml:12"),
        ("gates", "perplexity", "max_increase"): ("1%", "ingot.yaml:14"),
    }
    cpu, int8 = found.targets
    assert [(s.path, s.value) for s in cpu.settings] == [
        (("quantize", "method"), "rtn"),
        (("quantize", "bits"), 8),
        (("gates", "size", "max"), "60MB"),
    ]
    assert cpu.settings[1].origin.endswith("ingot.yaml:4")
    assert (int8.name, int8.settings) == ("cpu-int8", ())
    assert found.data.file("evaluation") == (tmp_path / "a.txt", str(tmp_path / "ingot.yaml:9"))
    assert (found.seed, found.out) == (7, tmp_path / "dist")


def test_without_data_the_bundled_texts_stand_in_but_never_for_training(load: Load) -> None:
    data = load("model: ckpt\n").data
    assert data.file("evaluation") == (BUNDLED / "evaluation.jsonl", BUNDLED_ORIGIN)
    assert data.file("calibration") == (BUNDLED / "calibration.jsonl", BUNDLED_ORIGIN)
    assert data.file("training") is None


def test_several_texts_may_choose_and_each_is_held_against_the_evaluation_text(
    load: Load, tmp_path: Path
) -> None:
    (tmp_path / "c.txt").write_text("six")
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "seven"}))
    data = load("model: ckpt\ndata: {selection: [c.txt, d.jsonl], evaluation: a.txt}\n").data
    assert data.texts("selection") == (tmp_path / "c.txt", tmp_path / "d.jsonl")
    with pytest.raises(RecipeError, match="selection names 2 files where one is taken"):
        data.file("selection")
    with pytest.raises(DataError, match=r"selection: document 1 of a\.txt is also document 1"):
        load("model: ckpt\ndata: {selection: [c.txt, a.txt], evaluation: a.txt}\n")
    with pytest.raises(DataError, match="selection: it names no file"):
        load("model: ckpt\ndata: {selection: []}\n")


def test_a_target_may_have_a_name_of_its_own(load: Load) -> None:
    found = load("model: ckpt\ntargets: {small: {profile: cpu-int4}, fast: {profile: cpu-int8}}\n")
    assert [(t.name, t.profile) for t in found.targets] == [("small", "cpu-int4"), ("fast", "cpu-int8")]


def test_a_target_may_be_a_profile_of_ones_own_beside_the_recipe(load: Load, tmp_path: Path) -> None:
    (tmp_path / "my-edge.yaml").write_text("summary: mine\nextends: cpu-int8\n")
    found = load("model: ckpt\ntargets: [./my-edge.yaml]\n")
    assert [(t.name, t.profile) for t in found.targets] == [("my-edge", str(tmp_path / "my-edge.yaml"))]


def test_a_name_on_the_hub_stays_as_it_is(load: Load) -> None:
    assert load("model: org/name@0123abc\n").model == "org/name@0123abc"


def test_a_recipe_made_of_options_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ckpt").mkdir()
    monkeypatch.chdir(tmp_path)
    found = recipe.recipe_from_options("ckpt", ["cpu-int8"])
    assert found.model == str(tmp_path / "ckpt")
    assert [target.name for target in found.targets] == ["cpu-int8"]


def test_the_digest_follows_what_was_written_and_not_where_it_lies(load: Load, tmp_path: Path) -> None:
    first, other = load("model: ckpt\nseed: 1\n"), load("model: ckpt\nseed: 2\n")
    (tmp_path / "moved" / "ckpt").mkdir(parents=True)
    moved = tmp_path / "moved" / "ingot.yaml"
    moved.write_text("# a remark\nmodel: ckpt\nseed: 1\n")
    assert recipe.load_recipe(moved).digest == first.digest
    assert other.digest != first.digest
    changed = recipe.load_recipe(moved, layers.command_line(["quantize.bits=4"]))
    assert changed.digest != first.digest


@pytest.mark.parametrize(
    ("text", "line", "what", "fix"),
    [
        ("modle: ckpt\n", 1, "modle is not a known name", "did you mean model?"),
        ("seed: 3\n", None, "model is missing", None),
        ("model: [ckpt]\n", 1, "model: ['ckpt'] is not text", None),
        ("model: ckpt\nseed: -1\n", 2, "seed: -1 is below 0", None),
        ("model: ckpt\nseed: zero\n", 2, "seed: 'zero' is not a whole number", None),
        ("seed: 1\nmodel: ./ckpd\n", 2, "model: './ckpd' does not exist", "ckpt?"),
        ("model: a.txt\n", 1, "model: 'a.txt' is not a directory", None),
        ("model: org/name\n", 1, "model: 'org/name' does not exist", "org/name@revision"),
        ("model: ckpt\nbase: load\n", 2, "base: 'load' is not used", None),
        ("model: ckpt\nreference: laod\n", 2, "reference.laod is not a known name", "did you mean load?"),
        ("model: ckpt\ntargets: []\n", 2, "targets: [] is not a list or a mapping", None),
        ("model: ckpt\ntargets: cpu\n", 2, "targets: 'cpu' is not a list or a mapping", None),
        ("model: ckpt\ntargets:\n- cpu\n- cpu-in8\n", 4, "no target 'cpu-in8'", "did you mean cpu-int8?"),
        ("model: ckpt\ntargets:\n- cpu\n- cpu\n", 4, "'cpu' is listed twice", None),
        ("model: ckpt\ntargets:\n- 8\n", 3, "8 is not the name of a target", None),
        ("model: ckpt\ntargets: {cpu: fast}\n", 2, "targets.cpu: 'fast' is not a mapping", None),
        (
            "model: ckpt\ntargets:\n  cpu:\n    quantise: rtn\n",
            4,
            "targets.cpu.quantise",
            "did you mean quantize?",
        ),
        ("model: ckpt\ntargets: {reference: {profile: cpu}}\n", 2, "'reference' cannot be the name", None),
        ("model: ckpt\ntargets: {My CPU: {profile: cpu}}\n", 2, "'My CPU' cannot be the name", None),
        ("model: ckpt\nstages:\n  quantise: rtn\n", 3, "stages.quantise", "did you mean quantize?"),
        ("model: ckpt\nstages:\n  quantize: 4\n", 3, "quantize: 4 is not a method", None),
        ("model: ckpt\nmeasure:\n  costs: {repeats: 3}\n", 3, "measure.costs", "did you mean cost?"),
        ("model: ckpt\nmeasure:\n  cost: 3\n", 3, "measure.cost: 3 is not a mapping", None),
        ("model: ckpt\ngates:\n  perplexity: 2%\n", 3, "gates.perplexity: '2%' is not a mapping", None),
        ("model: ckpt\ndata:\n  evaluatoin: a.txt\n", 3, "data.evaluatoin", "did you mean evaluation?"),
        ("- model\n", None, "a recipe is a mapping", None),
    ],
)
def test_a_faulty_recipe_is_refused_with_line_value_and_nearest_name(
    load: Load, text: str, line: int | None, what: str, fix: str | None
) -> None:
    with pytest.raises(RecipeError) as caught:
        load(text)
    assert what in caught.value.what
    if line is not None:
        assert str(caught.value.where).endswith(f"ingot.yaml:{line}")
    if fix is not None:
        assert fix in str(caught.value.fix)


def test_a_target_that_is_planned_only_is_refused_with_its_line(load: Load, tmp_path: Path) -> None:
    (tmp_path / "watch.yaml").write_text("summary: a watch\nstatus: planned\nruntime: onnx\n")
    with pytest.raises(RequirementError, match="watch is not built yet") as caught:
        load(f"model: ckpt\ntargets:\n- cpu\n- {tmp_path / 'watch.yaml'}\n")
    assert str(caught.value.where).endswith("ingot.yaml:4")


@pytest.mark.parametrize(
    ("name", "what"),
    [("none.txt", "there is no file"), ("empty.txt", "is empty"), ("ckpt", "is not a file")],
)
def test_a_text_that_cannot_be_used_is_refused_with_its_line(
    load: Load, tmp_path: Path, name: str, what: str
) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=what) as caught:
        load(f"model: ckpt\ndata:\n  calibration: b.jsonl\n  evaluation: {name}\n")
    assert str(caught.value.where).endswith("ingot.yaml:4")


def test_an_evaluation_text_of_blanks_alone_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n \n<|endoftext|>\n")
    with pytest.raises(DataError, match="no text"):
        load("model: ckpt\ndata: {evaluation: blank.txt}\n")


@pytest.mark.parametrize("role", ["calibration", "training", "selection"])
def test_a_document_of_the_evaluation_text_in_another_text_is_refused(
    load: Load, tmp_path: Path, role: str
) -> None:
    lines = [json.dumps({"text": text}) for text in ("six", "  two\n")]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        load(f"model: ckpt\ndata:\n  {role}: c.jsonl\n  evaluation: a.txt\n")
    assert f"data.{role}: document 2 of c.jsonl is also document 2" in caught.value.what
    assert str(caught.value.where).endswith("ingot.yaml:3")


@pytest.mark.parametrize(
    ("texts", "label", "line"),
    [
        ("data: {training: a.txt, selection: c.txt}", "data.training", 2),
        (
            "data: {selection: c.txt}\nstages:\n  distill:\n    training_text: a.txt",
            "distill.training_text",
            5,
        ),
        (
            "data: {training: a.txt}\nstages:\n  distill:\n    selection_text: c.txt",
            "distill.selection_text",
            5,
        ),
        (
            "stages:\n  distill:\n    teacher: load\n    selection_text: c.txt\n    training_text: a.txt",
            "distill.selection_text",
            5,
        ),
    ],
)
def test_a_document_that_trains_and_chooses_is_refused(
    load: Load, tmp_path: Path, texts: str, label: str, line: int
) -> None:
    (tmp_path / "c.txt").write_text("six\n<|endoftext|>\ntwo\n")
    with pytest.raises(DataError) as caught:
        load(f"model: ckpt\n{texts}\n")
    assert caught.value.what == (
        f"{label}: document 2 of a.txt is also document 2 of the selection text c.txt"
    )
    assert str(caught.value.where).endswith(f"ingot.yaml:{line}")


def test_other_texts_may_choose_for_one_step_and_train_in_another(load: Load, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("six")
    load(
        "model: ckpt\nstages:\n  finetune: {method: full, training_text: a.txt, selection_text: c.txt}\n"
        "  distill: {teacher: load, training_text: c.txt, selection_text: a.txt}\n"
    )


def test_calibrating_on_the_bundled_evaluation_text_is_refused(load: Load) -> None:
    with pytest.raises(DataError, match="is also document 1"):
        load(f"model: ckpt\ndata: {{calibration: {BUNDLED / 'evaluation.jsonl'}}}\n")


def test_the_bundled_texts_have_no_document_in_common() -> None:
    texts = [
        {json.loads(line)["text"].strip() for line in (BUNDLED / name).read_text().splitlines()}
        for name in ("calibration.jsonl", "evaluation.jsonl")
    ]
    assert texts[0].isdisjoint(texts[1])


def test_an_error_in_a_recipe_is_a_usage_error(load: Load) -> None:
    with pytest.raises(IngotError) as caught:
        load("modle: x\n")
    assert caught.value.exit_code == 2


def test_the_texts_of_a_role_are_found_whether_a_stage_takes_one_or_several() -> None:
    @dataclass
    class Params:
        evaluation: str | None = None
        selection: tuple[str, ...] = ()

    assert texts_of(Params(), "evaluation") == texts_of(Params(), "selection") == ()
    assert texts_of(Params(), "training") == ()
    found = Params("e.txt", ("a.txt", "b.txt"))
    assert texts_of(found, "evaluation") == (Path("e.txt"),)
    assert texts_of(found, "selection") == (Path("a.txt"), Path("b.txt"))


def test_a_step_may_name_a_training_text_of_its_own(load: Load, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.txt").write_text("some words to learn")
    found = load("model: ckpt\nstages:\n  finetune: {method: full, training_text: texts/train.txt}\n")
    values = {setting.path: setting.value for setting in found.settings}
    assert values["finetune", "training_text"] == str(tmp_path / "texts" / "train.txt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"^finetune.training_text: there is no file 'none.txt'"),
        ("empty.txt", "", r"^finetune.training_text: 'empty.txt' is empty"),
        (
            "both.txt",
            "held out",
            r"^finetune.training_text: document 1 of both.txt is also document 1 of the evalu",
        ),
    ],
)
def test_a_step_s_own_text_is_checked_like_those_under_data(
    load: Load, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    (tmp_path / "held.txt").write_text("held out")
    if content is not None:
        (tmp_path / name).write_text(content)
    stages = f"data: {{evaluation: held.txt}}\nstages:\n  finetune: {{method: full, training_text: {name}}}\n"
    with pytest.raises(DataError, match=message):
        load(f"model: ckpt\n{stages}")
