"""Singular values from the largest on: against numpy's, with all of them and by a sketch."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.stages.model import low_rank


def matrix(rows: int, columns: int, falls: float, seed: int = 0) -> np.ndarray:
    """Of known singular values: 1, falls, falls² ..."""
    generator = np.random.default_rng(seed)
    size = min(rows, columns)
    left, _ = np.linalg.qr(generator.standard_normal((rows, size)))
    right, _ = np.linalg.qr(generator.standard_normal((columns, size)))
    return ((left * falls ** np.arange(size)) @ right.T).astype(np.float32)


@pytest.mark.parametrize("falls", [0.97, 0.8])
@pytest.mark.parametrize("dense", [1024, 8])
def test_what_is_missed_is_what_the_smaller_singular_values_hold(falls, dense, monkeypatch):
    monkeypatch.setattr(low_rank, "DENSE", dense)
    value = matrix(150, 90, falls)
    found = low_rank.factor(value, 10, None, seed=0)
    assert (found.up.shape, found.down.shape) == ((150, 10), (10, 90))
    left = low_rank.missed(value, found.up, found.down)
    assert left == pytest.approx((falls ** (2 * np.arange(10, 90))).sum(), rel=2e-3)
    assert np.allclose((found.up**2).sum(0), falls ** np.arange(10), rtol=5e-3), "each half has √S"
    assert np.allclose((found.down**2).sum(1), falls ** np.arange(10), rtol=5e-3)


def test_energy_is_reached_by_the_smallest_rank_that_does():
    value = matrix(40, 30, 0.7)
    squares = 0.7 ** (2 * np.arange(30))
    for energy in (0.5, 0.9, 0.99):
        wanted = int(np.flatnonzero(np.cumsum(squares) / squares.sum() >= energy)[0]) + 1
        assert low_rank.factor(value, 30, energy, seed=0).up.shape[1] == wanted
    assert low_rank.factor(value, 2, 0.99, seed=0).up.shape[1] == 2, "the rank is the most"


def test_a_sketch_finds_a_low_rank_exactly_and_the_seed_decides_its_bits():
    generator = np.random.default_rng(1)
    value = (generator.standard_normal((1200, 5)) @ generator.standard_normal((5, 1100))).astype(np.float32)
    found = low_rank.factor(value, 5, None, seed=3)
    assert low_rank.missed(value, found.up, found.down) < 1e-10 * low_rank.square(value)
    assert np.array_equal(found.up, low_rank.factor(value, 5, None, seed=3).up)


def test_nothing_has_no_rank():
    found = low_rank.factor(np.zeros((4, 3), np.float32), 2, None, seed=0)
    assert (found.up.shape, found.down.shape) == ((4, 0), (0, 3))


def test_squares_are_added_up_in_float64():
    value = np.full((3, 100_000), 1.0001, np.float32)
    assert low_rank.square(value) == pytest.approx(300_000 * float(np.float32(1.0001)) ** 2, rel=1e-12)
    assert low_rank.square(np.array([3.0, 4.0], np.float32)) == 25.0
