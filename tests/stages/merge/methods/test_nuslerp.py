"""`nuslerp` by hand, and as the arc that it is."""

from __future__ import annotations

import math

import pytest
import torch
from ingot.artifacts.errors import InputError

HALF = [{"weight": 1.0}, {"weight": 1.0}]
ROOT = math.sqrt(0.5)


def test_half_way_between_unit_vectors_is_their_bisector(merge):
    assert merge("nuslerp", [[1.0, 0.0], [0.0, 1.0]], each=HALF).tolist() == pytest.approx([ROOT, ROOT])


def test_the_share_of_the_way_is_that_of_the_second_weight(merge):
    found = merge("nuslerp", [[1.0, 0.0], [0.0, 1.0]], each=[{"weight": 2.0}, {"weight": 1.0}])
    assert found.tolist() == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6)])


def test_arcs_are_between_differences_where_there_is_a_base(merge):
    found = merge("nuslerp", [[2.0, 5.0], [1.0, 6.0]], [1.0, 5.0], HALF)
    assert found.tolist() == pytest.approx([1 + ROOT, 5 + ROOT])


def test_rows_and_columns_have_arcs_of_their_own(merge):
    # Rows turn by 90° and 0°; columns are (1, 0) → (0, 0) and (0, 2) → (1, 2).
    first, second = [[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [0.0, 2.0]]
    rows = merge("nuslerp", [first, second], each=HALF, nuslerp_flatten=False)
    assert rows.flatten().tolist() == pytest.approx([ROOT, ROOT, 0, 2])
    columns = merge("nuslerp", [first, second], each=HALF, nuslerp_flatten=False, nuslerp_row_wise=True)
    angle = math.atan2(1, 2)
    share = math.sin(angle / 2) / math.sin(angle)
    # A vector of length 0 is at a right angle to all, by the cosine that it is given.
    assert columns.flatten().tolist() == pytest.approx([ROOT, share, 0, 4 * share])


def test_one_dimension_has_no_columns(merge):
    given = [[1.0, 0.0], [0.0, 1.0]]
    found = merge("nuslerp", given, each=HALF, nuslerp_flatten=False, nuslerp_row_wise=True)
    assert found.tolist() == pytest.approx([ROOT, ROOT])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_parallel_and_opposite_vectors_are_joined_by_the_chord(merge, sign):
    found = merge("nuslerp", [[1.0, 2.0], [sign * 2, sign * 4]], each=[{"weight": 3.0}, {"weight": 1.0}])
    assert found.tolist() == pytest.approx([0.75 + sign * 0.5, 1.5 + sign])


def test_weights_without_a_share_count_alike(merge):
    found = merge("nuslerp", [[1.0, 0.0], [0.0, 1.0]], each=[{"weight": 1.0}, {"weight": -1.0}])
    assert found.tolist() == pytest.approx([ROOT, ROOT])


def test_a_stack_of_matrices_has_no_columns(merge):
    given = [torch.ones(2, 2, 2)] * 2
    with pytest.raises(InputError, match="takes matrices"):
        merge("nuslerp", given, each=HALF, nuslerp_flatten=False, nuslerp_row_wise=True)


@pytest.mark.parametrize("settings", [
    {}, {"nuslerp_flatten": False}, {"nuslerp_flatten": False, "nuslerp_row_wise": True},
])  # fmt: skip
def test_equal_lengths_are_kept_and_neither_threads_nor_blocks_change_a_byte(merge, settings):
    torch.manual_seed(0)
    along = 1 if "nuslerp_row_wise" not in settings else 0
    given = [torch.nn.functional.normalize(torch.randn(700, 130), dim=along) for _ in range(2)]
    each = [{"weight": 0.3}, {"weight": 0.7}]
    found = merge("nuslerp", given, each=each, **settings)
    if settings:
        assert torch.allclose(found.norm(dim=along), torch.ones(()), atol=1e-6)
    else:
        assert found.norm().item() == pytest.approx(given[0].norm().item(), rel=1e-6)
    again = merge("nuslerp", given, each=each, threads=3, elements=1000, **settings)
    assert torch.equal(found, again)
