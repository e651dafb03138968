"""Changes of low rank: by hand, against numpy's singular values, and as sums."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ingot.stages.fuse.low_rank import Pair, Whole, change, rounded, widened


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as found:
        yield found


def test_a_pair_by_hand(pool):
    # W = [[1, 2], [3, 4]], B = [1, -1]ᵀ, A = [2, 3], s = 0.5: s·B·A = [[1, 1.5], [-1, -1.5]].
    value = np.array([[1, 2], [3, 4]], np.float32)
    pair = Pair(np.array([[0.5], [-0.5]]), np.array([[2.0, 3.0]]))
    found, measure = change(value, "F32", pair, [], pool)
    assert found.tolist() == [[2.0, 3.5], [2.0, 2.5]]
    assert (measure.before, measure.change, measure.lost) == (30.0, 6.5, 0.0)


def test_magnitudes_by_hand(pool):
    # V = [[3, 4], [0, 2]], norms 5 and 2; m = [10, 1]: [[6, 8], [0, 1]].
    value = np.array([[3, 4], [1, 2]], np.float32)
    pair = Pair(np.array([[0.0], [-1.0]]), np.array([[1.0, 0.0]]))
    whole = Whole(1.0, None, pair, np.array([10.0, 1.0]))
    found, _ = change(value, "F32", None, [whole], pool)
    assert found.tolist() == [[6.0, 8.0], [0.0, 1.0]]
    half, _ = change(value, "F32", None, [Whole(0.5, None, pair, whole.magnitude)], pool)
    assert half.tolist() == [[4.5, 6.0], [0.5, 1.5]]
    turned = Whole(1.0, None, Pair(pair.right.T, pair.left.T), whole.magnitude, stored_in_out=True)
    across, _ = change(np.ascontiguousarray(value.T), "F32", None, [turned], pool)
    assert across.T.tolist() == [[6.0, 8.0], [0.0, 1.0]]


def test_what_is_stored_whole_comes_out_bit_for_bit(pool):
    random = np.random.default_rng(0)
    value, saved = random.standard_normal((2, 5, 7)).astype(np.float32)
    found, _ = change(value, "F32", None, [Whole(1.0, saved.astype(np.float64))], pool)
    assert np.array_equal(found, saved)


def test_blocks_and_threads_change_nothing(pool):
    random = np.random.default_rng(1)
    value = random.standard_normal((3000, 200)).astype(np.float32)
    pair = Pair(random.standard_normal((3000, 3)), random.standard_normal((3, 200)))
    whole = Whole(0.7, None, pair, random.random(200) + 1, stored_in_out=True)
    found, _ = change(value, "F32", pair, [whole], pool)
    moved = value + pair.left @ pair.right
    normed = moved / np.linalg.norm(moved, axis=0) * whole.magnitude
    expected = moved + 0.7 * (normed - value)
    assert np.abs(found - expected).max() < 1e-6
    with ThreadPoolExecutor(1) as one:
        assert np.array_equal(change(value, "F32", pair, [whole], one)[0], found)


def test_the_sum_of_pairs_is_the_sum_of_their_products():
    random = np.random.default_rng(2)
    pairs = [Pair(random.standard_normal((9, rank)), random.standard_normal((rank, 5))) for rank in (1, 3)]
    both = Pair.of(pairs)
    expected = sum(pair.left @ pair.right for pair in pairs)
    assert np.allclose(both.left @ both.right, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("rank", [1, 2, 5, 6, 9])
def test_a_cut_is_that_of_the_singular_values_of_the_whole_matrix(rank):
    random = np.random.default_rng(3)
    pair = Pair(random.standard_normal((30, 6)), random.standard_normal((6, 20)))
    cut, kept = pair.truncated(rank)
    first, values, second = np.linalg.svd(pair.left @ pair.right)
    best = (first[:, :rank] * values[:rank]) @ second[:rank]
    assert cut.left.shape[1] == min(rank, 6)
    assert np.allclose(cut.left @ cut.right, best, rtol=0, atol=1e-12)
    assert kept == pytest.approx((values[:rank] ** 2).sum() / (values**2).sum())


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_rounding_is_torchs(dtype):
    import torch

    names = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    value = np.random.default_rng(4).standard_normal(1000).astype(np.float32).astype(np.float64)
    expected = torch.from_numpy(value).to(names[dtype]).double().numpy()
    assert np.array_equal(widened(rounded(value, dtype), dtype), expected)


@pytest.mark.parametrize(
    ("dtype", "value"), [("F16", 1e5), ("F32", 1e39), ("BF16", 3.4e38), ("F64", np.inf), ("F32", np.nan)]
)
def test_values_that_a_dtype_cannot_hold_are_refused(dtype, value):
    with pytest.raises(FloatingPointError):
        rounded(np.array([1.0, value]), dtype)
