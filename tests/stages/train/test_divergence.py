"""Divergences against closed forms and against scipy's relative entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ingot.stages.train.divergence import KINDS, Likeliest, divergence
from scipy.special import rel_entr

P, Q = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]


def log(*rows):
    return torch.from_numpy(np.array(rows, dtype=np.float64)).log()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # ½ ln 2 + 0 - ¼ ln 2, the same the other way round.
        ("forward", math.log(2) / 4),
        ("reverse", math.log(2) / 4),
        # To the mean (3/8, 1/4, 3/8): ½ ln 4/3 + ¼ ln 2/3, twice the same, halved.
        ("js", math.log(4 / 3) / 2 + math.log(2 / 3) / 4),
    ],
)
def test_a_divergence_is_its_closed_form(kind, expected):
    assert divergence(kind, log(P), log(Q)).item() == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=2, max_size=9))
def test_divergences_are_those_of_scipy(pairs):
    p, q = (np.array(side) / sum(side) for side in zip(*pairs, strict=True))
    m = (p + q) / 2
    expected = {
        "forward": rel_entr(p, q).sum(),
        "reverse": rel_entr(q, p).sum(),
        "js": (rel_entr(p, m).sum() + rel_entr(q, m).sum()) / 2,
    }
    for kind, value in expected.items():
        assert divergence(kind, log(p), log(q)).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [0, 3])
def test_equal_logits_have_no_divergence_and_no_gradient(kind, k):
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(0)) * 3
    own = logits.clone().requires_grad_()
    teacher, student = logits.log_softmax(-1), own.log_softmax(-1)
    if k:
        known = Likeliest.of(teacher, k)
        teacher, student = known.outcomes(), known.of_student(student)
    loss = divergence(kind, teacher, student)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert float(own.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_forward_divergence_is_the_difference_of_shares(kind):
    own = torch.tensor([[1.0, -1.0, 0.5]], requires_grad=True)
    teacher = log(P).float()
    divergence(kind, teacher, own.log_softmax(-1)).backward()
    if kind == "forward":
        torch.testing.assert_close(own.grad, own.detach().softmax(-1) - torch.tensor([P]))
    else:
        numeric = torch.autograd.gradcheck(
            lambda x: divergence(kind, teacher.double(), x.log_softmax(-1)),
            own.double().detach().requires_grad_(),
        )
        assert numeric


def test_of_the_likeliest_tokens_the_rest_is_one_outcome():
    known = Likeliest.of(log([0.1, 0.5, 0.15, 0.25]), 2)
    assert known.ids.tolist() == [[1, 3]]
    assert known.outcomes().exp().tolist()[0] == pytest.approx([0.5, 0.25, 0.25])
    assert known.of_student(log([0.4, 0.3, 0.2, 0.1])).exp().tolist()[0] == pytest.approx([0.3, 0.1, 0.6])


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_fewer_outcomes_never_raise_a_divergence(seed, k):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = (torch.randn(3, 9, generator=generator).double().log_softmax(-1) for _ in range(2))
    known = Likeliest.of(teacher, k)
    for kind in KINDS:
        merged = divergence(kind, known.outcomes(), known.of_student(student)).item()
        assert merged <= divergence(kind, teacher, student).item() + 1e-9
