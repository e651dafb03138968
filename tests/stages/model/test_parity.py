"""Parity finds a fault in the cache, the mask or the positions, each in the case that is made for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.stages.model import parity
from ingot.stages.model.logits_store import Rows

if TYPE_CHECKING:
    import numpy.typing as npt

VOCABULARY = 13


def truth(row: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """A causal toy: the output at a position depends on all tokens up to it, and on their positions."""
    weights = np.arange(1, len(row) + 1)
    return np.stack([np.sin(np.arange(VOCABULARY) * (s + 1)) for s in np.cumsum(row * weights)]).astype(
        np.float32
    )


class Toy:
    """A session over :func:`truth`, with a fault of one kind when asked for."""

    def __init__(self, fault: str = "", task: str = "causal-lm") -> None:
        self.fault = fault
        self.info = type("Info", (), {"task": task})()

    def logits(self, ids: Any, mask: Any) -> Any:
        outputs = np.zeros((*ids.shape, VOCABULARY), np.float32)
        for number, (row, kept) in enumerate(zip(ids, mask, strict=True)):
            chosen = np.ones_like(kept) if self.fault == "mask" else kept
            outputs[number, chosen == 1] = truth(row[chosen == 1])
        if self.fault == "batch" and len(ids) > 1:
            outputs = outputs[::-1]
        return outputs

    def step(self, ids: Any, mask: Any = None, past: Any = None) -> Any:
        row = ids[0] if past is None or self.fault == "cache" else np.concatenate([past, ids[0]])
        return truth(row)[None, -ids.shape[1] :], row


@pytest.fixture
def rows() -> Rows:
    found = parity.inputs(VOCABULARY, 128)
    outputs = np.concatenate([truth(row) for row in found])
    return Rows(np.concatenate(found), np.array([len(row) for row in found]), outputs)


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("", set()),
        ("cache", {"decode"}),
        ("mask", {"batch_2_left_padded"}),
        ("batch", {"batch_2", "batch_2_left_padded"}),
    ],
)
def test_each_fault_shows_in_its_case_alone(rows: Rows, fault: str, wrong: set[str]) -> None:
    cases = parity.measure(Toy(fault), rows)
    assert set(cases) == {"prefill", "decode", "batch_2", "batch_2_left_padded"}
    assert {name for name, case in cases.items() if case["max_error"] > 1e-6} == wrong
    assert {name for name, case in cases.items() if case["top1"] < 1} == wrong


def test_an_encoder_is_padded_on_the_right_and_never_decodes(rows: Rows) -> None:
    cases = parity.measure(Toy("mask", "encoder"), rows)
    assert set(cases) == {"one_row", "batch_2", "batch_2_right_padded"}
    # Right padding cannot reach a causal toy's earlier positions, with or without a mask.
    assert parity.worst(cases) < 1e-6


def test_padding_is_left_out_of_the_count(rows: Rows) -> None:
    cases = parity.measure(Toy(), rows)
    assert [case["positions"] for case in cases.values()] == [16, 16, 32, 25]


def test_the_difference_is_the_largest_over_positions() -> None:
    expected = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    found = np.array([[1.0, 2.5], [5.0, 4.0]], np.float32)
    assert parity.difference([found], [expected]) == {"max_error": 2.0, "top1": 0.5, "positions": 2}


def test_one_output_that_is_not_a_number_is_the_worst() -> None:
    expected = np.ones((2, 2), np.float32)
    found = np.array([[1, np.nan], [1, 1]], np.float32)
    case = parity.difference([found], [expected])
    assert math.isnan(parity.worst({"bad": case, "good": {"max_error": 0.0}}))
    assert math.isnan(parity.worst({"good": {"max_error": 0.0}, "bad": case}))


@pytest.mark.parametrize("context", [2, 9, 16, 512])
def test_inputs_fit_any_context_and_stay_the_same(context: int) -> None:
    first, second, short = parity.inputs(1000, context)
    assert len(first) == len(second) == min(16, context)
    assert 1 <= len(short) < len(first)
    assert [row.tolist() for row in parity.inputs(1000, context)] == [
        r.tolist() for r in (first, second, short)
    ]
