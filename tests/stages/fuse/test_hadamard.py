"""The rotations: orthogonal at every width, Hadamard where one is known, another one for every seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingot.stages.fuse.hadamard import Rotation, paley


@pytest.mark.parametrize("order", [4, 8, 12, 20, 24, 28, 36, 44, 60, 68, 76, 84])
def test_paley_matrices_are_plus_and_minus_one_with_orthogonal_rows(order: int) -> None:
    found = paley(order)
    assert found is not None
    assert set(np.unique(found)) == {-1.0, 1.0}
    assert np.array_equal(found @ found.T, order * np.eye(order))


@pytest.mark.parametrize("order", [1, 2, 3, 6, 52, 92, 100])
def test_orders_without_a_prime_have_none(order: int) -> None:
    assert paley(order) is None


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 200), seed=st.integers(0, 2**63 - 1))
def test_rotations_of_all_widths_are_orthogonal(width: int, seed: int) -> None:
    matrix = Rotation.of(width, seed).apply(np.eye(width))
    assert np.allclose(matrix @ matrix.T, np.eye(width), atol=1e-12)


@pytest.mark.parametrize(
    ("width", "kind"),
    [
        (256, "Hadamard 256"), (96, "Hadamard 12 x 8"), (80, "Hadamard 20 x 4"), (112, "Hadamard 28 x 4"),
        (12, "Hadamard 12 x 1"), (24, "Hadamard 12 x 2"), (6, "orthogonal 3 x Hadamard 2"),
        (104, "orthogonal 13 x Hadamard 8"), (7, "orthogonal 7 x Hadamard 1"),
    ],
)  # fmt: skip
def test_it_says_what_it_is_made_of_and_hadamard_ones_mix_evenly(width: int, kind: str) -> None:
    rotation = Rotation.of(width, 3)
    assert rotation.kind == kind
    if "orthogonal" not in kind:
        assert np.allclose(np.abs(rotation.apply(np.eye(width))), width**-0.5)


def test_a_sylvester_rotation_is_its_signs_times_the_kronecker_power() -> None:
    rotation = Rotation.of(8, 1)
    two = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2)
    expected = np.diag(rotation.signs) @ np.kron(two, np.kron(two, two))
    assert np.allclose(rotation.apply(np.eye(8)), expected)


def test_a_product_with_a_factor_is_the_kronecker_product() -> None:
    rotation = Rotation.of(48, 5)
    four = np.kron([[1.0, 1.0], [1.0, -1.0]], [[1.0, 1.0], [1.0, -1.0]]) / 2
    expected = np.diag(rotation.signs) @ np.kron(rotation.factor, four)
    assert np.allclose(rotation.apply(np.eye(48)), expected)


def test_the_same_seed_gives_the_same_rotation_and_another_one_another() -> None:
    first, again, other = (Rotation.of(64, seed).signs for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
