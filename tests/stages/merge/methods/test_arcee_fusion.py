"""`arcee_fusion` against its definition in float64."""

from __future__ import annotations

import torch


def defined(base: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Importance, and the threshold: of sorted elements those at ⌊q (n − 1)⌋."""
    base, other = base.double(), other.double()
    p, q = torch.softmax(other, -1) + 1e-8, torch.softmax(base, -1) + 1e-8
    importance = (other - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    ordered = importance.flatten().sort().values.tolist()
    low, median, high = (ordered[(len(ordered) - 1) * quarter // 4] for quarter in (1, 2, 3))
    return importance, median + 1.5 * (high - low)


def test_what_stands_out_is_taken_and_nothing_else(merge):
    torch.manual_seed(0)
    base = torch.randn(37, 11)
    other = base + torch.randn(37, 11) ** 3
    importance, threshold = defined(base, other)
    chosen = importance >= threshold
    assert 10 < chosen.sum() < 100
    found = merge("arcee_fusion", [other], base)
    assert torch.equal(found, torch.where(chosen, other, base))
    assert torch.equal(found, merge("arcee_fusion", [other], base, threads=2, elements=50))


def test_rows_that_differ_by_a_shift_have_the_same_distribution_and_are_not_taken(merge):
    base = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    other = base + torch.tensor([[9.0, 9.0], [1.0, 1.0], [3.0, 3.0], [0.0, 5.0]])
    found = merge("arcee_fusion", [other], base)
    assert torch.equal(found[3], other[3])


def test_a_model_like_the_base_changes_nothing(merge):
    base = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(merge("arcee_fusion", [base], base), base)


def test_a_vector_is_one_row_and_nothing_stays_nothing(merge):
    base, other = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 2.0, 4.0])
    assert torch.equal(merge("arcee_fusion", [other], base), other)
    assert merge("arcee_fusion", [torch.empty(0, 3)], torch.empty(0, 3)).shape == (0, 3)
