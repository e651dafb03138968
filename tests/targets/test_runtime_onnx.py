"""Sessions of the ONNX runtime, on a graph whose every answer can be worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ingot.artifacts.errors import InputError, RequirementError, StageError
from ingot.targets.runtimes import onnx
from ingot.targets.runtimes.base import Sampling

from .toy import CONTEXT, EOS, HEIGHT, VOCABULARY, continuation, write_toy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GREEDY = Sampling(max_new_tokens=6)


@pytest.fixture(params=["arrays", "bound"])
def toy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[onnx.OnnxSession]:
    """Its inputs and outputs as arrays, and bound to the device's memory, as on a GPU."""
    session = onnx.open(write_toy(tmp_path / "toy"), threads=1)
    session._graph._is_bound = request.param == "bound"
    yield session
    session.close()


def test_info_says_what_was_opened(toy: onnx.OnnxSession) -> None:
    info = toy.info
    assert (info.task, info.vocabulary, info.context, info.eos_ids) == (
        "causal-lm",
        VOCABULARY,
        CONTEXT,
        (EOS,),
    )
    assert info.runtime == "onnxruntime"
    assert info.runtime_version.count(".") >= 1


def test_logits_are_those_worked_out_by_hand(toy: onnx.OnnxSession) -> None:
    # Sums 3, 5, 9 and positions 0, 1, 2.
    logits = toy.logits(np.array([[3, 2, 4]]))
    assert logits.shape == (1, 3, VOCABULARY)
    assert logits.dtype == np.float32
    assert logits.argmax(-1).tolist() == [[3, 6, 0]]
    assert logits.max() == HEIGHT


def test_padding_on_the_left_changes_neither_sums_nor_positions(toy: onnx.OnnxSession) -> None:
    logits = toy.logits(np.array([[9, 9, 3, 2], [1, 1, 1, 1]]), np.array([[0, 0, 1, 1], [1, 1, 1, 1]]))
    assert logits.argmax(-1)[0, 2:].tolist() == [3, 6]
    assert logits.argmax(-1)[1].tolist() == [1, 3, 5, 7]


def test_stepping_through_a_cache_gives_the_same_as_all_at_once(toy: onnx.OnnxSession) -> None:
    ids = np.array([[3, 2, 4, 7, 1], [5, 6, 0, 2, 8]])
    mask = np.array([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    whole = toy.logits(ids, mask)
    first, past = toy.step(ids[:, :3], mask[:, :3])
    assert past.length == 3
    second, past = toy.step(ids[:, 3:4], mask[:, :4], past)
    third, past = toy.step(ids[:, 4:], mask, past)
    assert past.length == 5
    np.testing.assert_array_equal(np.concatenate([first, second, third], 1), whole)


def test_stepping_leaves_the_cache_it_was_given_as_it_was(toy: onnx.OnnxSession) -> None:
    _, past = toy.step(np.array([[3, 2]]))
    kept = {name: toy._graph.host(value).copy() for name, value in past.tensors.items()}
    again = [toy.step(np.array([[token]]), None, past)[0].argmax() for token in (1, 5, 1)]
    assert again == [8, 1, 8]
    for name, value in past.tensors.items():
        np.testing.assert_array_equal(toy._graph.host(value), kept[name])


def test_only_the_last_logits_are_given_when_asked(toy: onnx.OnnxSession) -> None:
    logits, past = toy.step(np.array([[3, 2, 4]]), logits_from=-1)
    assert logits.shape == (1, 1, VOCABULARY)
    assert logits.argmax() == 0
    assert past.length == 3


@pytest.mark.parametrize("prompt", [[3], [1, 2, 3], [7, 7], [9, 1, 4, 4, 2]])
def test_greedy_generation_is_the_one_worked_out_by_hand(toy: onnx.OnnxSession, prompt: list[int]) -> None:
    assert toy.generate([prompt], GREEDY) == [continuation(prompt, 6)]


def test_a_batch_of_prompts_of_different_length_gives_what_each_gives_alone(toy: onnx.OnnxSession) -> None:
    prompts = [[1, 2, 3], [5], [7, 7, 1, 1, 8, 2], [2]]
    together = toy.generate(prompts, GREEDY)
    assert together == [continuation(prompt, 6) for prompt in prompts]
    assert len({len(row) for row in together}) > 1, "some row must end early for the case to mean anything"


def test_a_row_ends_before_the_end_token_and_others_go_on(toy: onnx.OnnxSession) -> None:
    # After 6 alone (sum 6, position 0) the next token is 6 again, the end; 3 goes on with 3, 7, 4, 9, 8.
    assert toy.generate([[6], [3]], GREEDY) == [[], [3, 7, 4, 9, 8]]


def test_generation_stops_where_the_context_is_full(toy: onnx.OnnxSession) -> None:
    prompt = [0] * (CONTEXT - 2)
    assert continuation(prompt, 2) == toy.generate([prompt], GREEDY)[0]
    assert len(toy.generate([prompt], GREEDY)[0]) == 2


def test_a_full_row_does_not_end_the_others(toy: onnx.OnnxSession) -> None:
    full = [0] * (CONTEXT - 1)
    rows = toy.generate([full, [3]], GREEDY)
    assert rows == [continuation(full, 1), continuation([3], 6)]


def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers(toy: onnx.OnnxSession) -> None:
    with pytest.raises(InputError, match=rf"prompt 2 has {CONTEXT} tokens.* context {CONTEXT}"):
        toy.generate([[1], [0] * CONTEXT], GREEDY)


def test_an_empty_prompt_is_refused(toy: onnx.OnnxSession) -> None:
    with pytest.raises(InputError, match="prompt 2 is empty"):
        toy.generate([[1], []], GREEDY)


def test_no_prompts_give_nothing(toy: onnx.OnnxSession) -> None:
    assert toy.generate([], GREEDY) == []


def test_sampling_repeats_with_its_seed_and_differs_without(tmp_path: Path) -> None:
    flat = onnx.open(write_toy(tmp_path / "flat", height=1.0, eos_ids=[]), threads=1)
    warm = Sampling(max_new_tokens=12, temperature=1.0, seed=3)
    once = flat.generate([[1, 2], [1, 2]], warm)
    assert flat.generate([[1, 2], [1, 2]], warm) == once
    assert once[0] != once[1], "rows of one batch draw apart"
    assert flat.generate([[1, 2], [1, 2]], Sampling(max_new_tokens=12, temperature=1.0, seed=4)) != once


def test_what_else_is_in_the_batch_does_not_change_what_a_row_draws(tmp_path: Path) -> None:
    flat = onnx.open(write_toy(tmp_path / "flat", height=1.0, eos_ids=[]), threads=1)
    warm = Sampling(max_new_tokens=8, temperature=1.0, seed=3)
    alone = flat.generate([[1, 2]], warm)
    assert flat.generate([[1, 2], [4, 4, 4, 4, 4]], warm)[0] == alone[0]


def test_sampled_tokens_follow_the_models_probabilities(tmp_path: Path) -> None:
    # The likeliest token has e / (e + 10): 0.2137. Of 2,000 first tokens, 5 standard deviations are 92.
    flat = onnx.open(write_toy(tmp_path / "flat", height=1.0, eos_ids=[]), threads=1)
    drawn = flat.generate([[4]] * 2000, Sampling(max_new_tokens=1, temperature=1.0))
    hits = sum(row == [4] for row in drawn)
    assert abs(hits - 427) < 92


@pytest.mark.parametrize(("ids", "bad"), [([[3, VOCABULARY]], VOCABULARY), ([[-1, 3]], -1)])
def test_a_token_outside_the_vocabulary_is_refused(
    toy: onnx.OnnxSession, ids: list[list[int]], bad: int
) -> None:
    with pytest.raises(InputError, match=f"token id {bad} "):
        toy.logits(np.array(ids))


def test_a_sequence_longer_than_the_context_is_refused(toy: onnx.OnnxSession) -> None:
    with pytest.raises(InputError, match=f"{CONTEXT + 1} tokens"):
        toy.logits(np.zeros((1, CONTEXT + 1), np.int64))


def test_a_mask_of_another_shape_is_refused(toy: onnx.OnnxSession) -> None:
    _, past = toy.step(np.array([[3, 2]]))
    with pytest.raises(InputError, match=r"\[1, 1\], not \[1, 3\]"):
        toy.step(np.array([[3]]), np.array([[1]]), past)


def test_a_closed_session_says_so(toy: onnx.OnnxSession) -> None:
    toy.close()
    with pytest.raises(StageError, match="closed"):
        toy.logits(np.array([[1]]))


def test_a_directory_without_an_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no ingot\.json"):
        onnx.open(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    directory = write_toy(tmp_path / "toy", format="torchscript")
    with pytest.raises(InputError, match="does not describe a session"):
        onnx.open(directory)


def test_a_task_that_no_session_runs_is_named(tmp_path: Path) -> None:
    directory = write_toy(tmp_path / "toy", task="image-classification")
    with pytest.raises(InputError, match="not 'image-classification'"):
        onnx.open(directory)


def test_a_damaged_graph_is_one_clear_error(tmp_path: Path) -> None:
    directory = write_toy(tmp_path / "toy")
    whole = (directory / "model.onnx").read_bytes()
    assert b"CumSum" in whole
    (directory / "model.onnx").write_bytes(whole.replace(b"CumSum", b"CumSup"))
    with pytest.raises(InputError, match="cannot open the graph"):
        onnx.open(directory)


def test_a_runtime_older_than_the_graph_needs_is_named(tmp_path: Path) -> None:
    directory = write_toy(tmp_path / "toy", requires={"onnxruntime": ">=99.1"})
    with pytest.raises(RequirementError, match=r">=99\.1") as raised:
        onnx.open(directory)
    assert raised.value.fix == "pip install 'onnxruntime>=99.1'"
