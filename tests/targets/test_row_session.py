"""A session over programs of one row, against a program that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ingot.artifacts.errors import InputError, StageError
from ingot.targets.runtimes import executorch
from ingot.targets.runtimes.base import Sampling, SessionInfo
from ingot.targets.runtimes.row_session import RowSession

VOCABULARY = 50


def info(task: str = "causal-lm") -> SessionInfo:
    return SessionInfo(task, 1, 4, 1, 4, VOCABULARY, 16, None, (), None, "toy", "1")


class Sums:
    """Row t is one at the sum of the first t tokens, modulo the vocabulary; it keeps tokens by position."""

    def __init__(self, calls: list[tuple[int, int]]) -> None:
        self.held: list[int] = []
        self.calls = calls

    def run(self, ids: Any, start: int) -> Any:
        self.calls.append((start, len(ids)))
        self.held = [*self.held[:start], *ids.tolist()]
        found = np.zeros((len(ids), VOCABULARY), np.float32)
        found[
            np.arange(len(ids)), [sum(self.held[: start + at + 1]) % VOCABULARY for at in range(len(ids))]
        ] = 1
        return found


def session(calls: list[tuple[int, int]], *, keeps_past: bool = True) -> RowSession:
    return RowSession(info(), lambda: Sums(calls), keeps_past=keeps_past)


def test_padding_on_either_side_is_left_out_and_comes_back_as_zeros() -> None:
    made = session([])
    ids = np.array([[0, 0, 3, 4], [5, 6, 7, 0]])
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 0]])
    found = made.logits(ids, mask)
    assert not found[0, :2].any()
    assert not found[1, 3].any()
    assert found[0, 2:].argmax(-1).tolist() == [3, 7]
    assert found[1, :3].argmax(-1).tolist() == [5, 11, 18]


def test_a_step_runs_new_tokens_alone_where_the_past_is_held_and_all_of_them_elsewhere() -> None:
    calls: list[tuple[int, int]] = []
    made = session(calls)
    _, past = made.step(np.array([[1, 2, 3]]))
    found, _ = made.step(np.array([[4]]), None, past)
    assert found[0].argmax(-1).tolist() == [10]
    other, _ = made.step(np.array([[9]]), None, past)
    assert other[0].argmax(-1).tolist() == [15]
    assert calls == [(0, 3), (3, 1), (0, 4)]


def test_a_program_without_a_past_computes_the_whole_sequence() -> None:
    calls: list[tuple[int, int]] = []
    made = session(calls, keeps_past=False)
    _, past = made.step(np.array([[1, 2, 3]]))
    found, _ = made.step(np.array([[4, 5]]), None, past)
    assert found[0].argmax(-1).tolist() == [10, 15]
    assert calls == [(0, 3), (0, 5)]


def test_rows_of_a_batch_generate_what_each_does_alone() -> None:
    prompts, sampling = [[1, 2], [7, 8, 9]], Sampling(max_new_tokens=4)
    together = session([]).generate(prompts, sampling)
    assert together == [session([]).generate([prompt], sampling)[0] for prompt in prompts]
    # The greedy next token is the sum so far: 3, 6, 12, 24.
    assert together[0] == [3, 6, 12, 24]


def test_what_does_not_fit_is_refused() -> None:
    made = session([])
    with pytest.raises(InputError, match="outside the vocabulary"):
        made.logits(np.array([[VOCABULARY]]))
    with pytest.raises(InputError, match="more than the model's context"):
        made.logits(np.zeros((1, 17), np.int64))
    with pytest.raises(InputError, match="masks every token"):
        made.logits(np.array([[1]]), np.array([[0]]))
    with pytest.raises(InputError, match="no past to step from"):
        RowSession(info("encoder"), lambda: Sums([]), keeps_past=False).step(np.array([[1]]))
    made.close()
    with pytest.raises(StageError, match="closed"):
        made.logits(np.array([[1]]))


def test_a_file_that_is_no_program_is_not_opened(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="is not there"):
        executorch.check_program(tmp_path / "model.pte")
    (tmp_path / "model.pte").write_bytes(b"\x20\0\0\0ORTMxxxx")
    with pytest.raises(InputError, match="no program of ExecuTorch"):
        executorch.check_program(tmp_path / "model.pte")
    (tmp_path / "model.pte").write_bytes(b"\x20\0\0\0ET12xxxx")
    executorch.check_program(tmp_path / "model.pte")
