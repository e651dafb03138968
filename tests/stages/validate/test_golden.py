"""Golden prompts: the reference against transformers' own generation, and the comparison by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import CorruptError, StageError
from ingot.stages.validate import golden
from ingot.stages.validate.golden import Continuation, compare

from .conftest import WINDOW, measured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingot.artifacts.manifest import Artifact

    Make = Callable[..., Artifact]

WORDS = ["<end>", "the", " river", " ran", " past", " a", " mill"]
PROMPT = (1, 2)
END = 0


class Words:
    """A tokenizer of a few words; the end is nothing in a text."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(WORDS[token] for token in ids if token != END or not skip_special_tokens)


def session(*ids: int) -> Any:
    """A session that goes on with these tokens, whatever it is asked."""
    return SimpleNamespace(
        info=SimpleNamespace(eos_ids=(END,)), generate=lambda prompts, sampling: [list(ids)]
    )


def row(*ids: int, shares: tuple[tuple[int, float], ...] = ()) -> Continuation:
    return Continuation("the river", PROMPT, ids, tuple(shares or ((token, 0.5),) for token in ids))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_reference_goes_on_as_transformers_does(
    reference: Make, tiny_checkpoint: Callable[..., Path], family: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = tiny_checkpoint(family)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = golden.read(reference(family).path)
    assert [found.prompt for found in rows] == list(golden.PROMPTS)
    for found in rows:
        ids = tokenizer(found.prompt)["input_ids"]
        assert list(found.prompt_ids) == ids
        with torch.no_grad():
            whole = model.generate(
                torch.tensor([ids]), max_new_tokens=len(found.ids), do_sample=False, eos_token_id=-1,
                pad_token_id=0,
            )  # fmt: skip
            share = model(torch.tensor([ids])).logits[0, -1].softmax(-1).max().item()
        assert list(found.ids) == whole[0, len(ids) :].tolist()
        assert found.likeliest[0][0] == (found.ids[0], pytest.approx(share, abs=1e-5))


def test_an_unquantized_export_goes_on_as_the_reference(
    run_stage: Make, exported: Make, reference: Make
) -> None:
    inputs = {"artifact": exported("llama"), "reference": reference("llama")}
    found, _ = measured(run_stage("validate.quality", inputs))
    assert [item["prompt"] for item in found["golden"]] == list(golden.PROMPTS)
    for item in found["golden"]:
        assert item["agreed"] == item["tokens"]
        assert (item["reference"], item["value"]) == (None, None)


def test_encoders_do_not_go_on(run_stage: Make, exported: Make, reference: Make) -> None:
    inputs = {"artifact": exported("bert"), "reference": reference("bert")}
    found, _ = measured(run_stage("validate.quality", inputs))
    assert found["golden"] == []


def test_a_prompt_without_room_is_left_out_and_said(
    run_stage: Make, tiny_checkpoint: Callable[..., Path], evaluation: Path
) -> None:
    notes: list[str] = []
    found = run_stage(
        "validate.reference", {"model": tiny_checkpoint("llama")}, notes=notes, evaluation=str(evaluation),
        window=WINDOW, max_tokens=WINDOW, prompts=["the mill", "the " * 200, ""], new_tokens=3,
    )  # fmt: skip
    (kept,) = golden.read(found.path)
    assert (kept.prompt, len(kept.ids)) == ("the mill", 3)
    assert len([note for note in notes if "is left out" in note]) == 2


def test_where_two_texts_part_both_tokens_are_shown_with_what_the_reference_gave_them() -> None:
    found = compare(session(3, 4, 6, 5), Words(), row(3, 4, 5, 6, shares=((5, 0.4), (6, 0.3))))
    assert found == {
        "prompt": "the river",
        "tokens": 4,
        "agreed": 2,
        "common": " ran past",
        "reference": {"token": " a", "rest": " mill", "probability": 0.4},
        "value": {"token": " mill", "rest": " a", "probability": 0.3},
    }


def test_a_token_that_the_reference_hardly_thought_of_has_no_probability() -> None:
    found = compare(session(4), Words(), row(3, shares=((3, 0.9), (5, 0.05))))
    assert (found["agreed"], found["common"]) == (0, "")
    assert found["value"] == {"token": " past", "rest": "", "probability": None}


def test_equal_texts_do_not_part_also_where_both_end() -> None:
    for found in (
        compare(session(3, 4), Words(), row(3, 4)),
        compare(session(3, 4), Words(), row(3, 4, END, 5)),
    ):
        assert (found["tokens"], found["agreed"], found["reference"], found["value"]) == (2, 2, None, None)


def test_a_side_that_ends_earlier_has_an_empty_token_with_the_probability_of_the_end() -> None:
    ours = compare(session(3), Words(), row(3, 4, shares=((4, 0.6), (END, 0.3))))
    assert ours["value"] == {"token": "", "rest": "", "probability": 0.3}
    theirs = compare(session(3, 4), Words(), row(3, END, shares=((END, 0.6), (4, 0.3))))
    assert theirs["reference"] == {"token": "", "rest": "", "probability": 0.6}
    assert theirs["value"] == {"token": " past", "rest": "", "probability": 0.3}


def test_an_artifact_that_cannot_go_on_is_recorded_not_refused() -> None:
    def generate(prompts: object, sampling: object) -> None:
        raise StageError("the model gave logits that are not numbers")

    broken: Any = SimpleNamespace(info=SimpleNamespace(eos_ids=()), generate=generate)
    found = compare(broken, Words(), row(3, 4))
    assert found == {
        "prompt": "the river", "tokens": 2, "error": "the model gave logits that are not numbers",
    }  # fmt: skip


def test_a_record_of_another_shape_is_refused(tmp_path: Path) -> None:
    assert golden.read(tmp_path) == ()
    for broken in ({"schema": "other", "rows": []}, {"schema": golden.SCHEMA, "rows": [{}]}):
        (tmp_path / golden.FILE).write_text(json.dumps(broken))
        with pytest.raises(CorruptError):
            golden.read(tmp_path)
