"""Grams are those of all rows together, in any number of threads and any division into batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest


def batches(width: int, sizes: tuple[int, ...], seed: int = 0) -> list:
    import torch

    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(sum(sizes), width, generator=generator)
    return list(whole.split(list(sizes)))


@pytest.mark.parametrize("width", [5, 512, 700, 1100])
def test_a_gram_is_that_of_all_rows_in_double_precision(width: int) -> None:
    import torch
    from ingot.stages.model.calibration.gram import gram

    parts = batches(width, (40, 7, 64, 0, 19))
    whole = torch.cat(parts).double()
    with ThreadPoolExecutor(2) as pool:
        found = gram(parts, pool)
    torch.testing.assert_close(found.double(), whole.T @ whole, rtol=1e-5, atol=1e-4)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("width", [64, 700])
def test_the_number_of_threads_changes_no_bit(width: int) -> None:
    import torch
    from ingot.stages.model.calibration.gram import cross, gram

    parts, others = batches(width, (40,) * 9), batches(width, (40,) * 9, seed=1)
    found = []
    for threads in (1, 2, 5):
        with ThreadPoolExecutor(threads) as pool:
            found.append((gram(parts, pool), cross(parts, others, pool)))
    assert all(torch.equal(found[0][0], each[0]) and torch.equal(found[0][1], each[1]) for each in found)


def test_the_division_into_batches_changes_rounding_alone() -> None:
    import torch
    from ingot.stages.model.calibration.gram import gram

    with ThreadPoolExecutor(2) as pool:
        one, other = (gram(batches(96, sizes), pool) for sizes in ((360,), (40,) * 9))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_a_cross_product_takes_the_second_by_columns() -> None:
    import torch
    from ingot.stages.model.calibration.gram import cross

    first, second = batches(6, (3, 4)), batches(6, (3, 4), seed=1)
    with ThreadPoolExecutor(1) as pool:
        found = cross(first, second, pool)
    torch.testing.assert_close(found, torch.cat(first).T @ torch.cat(second), rtol=1e-5, atol=1e-5)


def test_half_precision_products_are_summed_in_float32() -> None:
    import torch
    from ingot.stages.model.calibration.gram import gram

    parts = [part.bfloat16() for part in batches(32, (256,) * 16)]
    whole = torch.cat(parts).double()
    with ThreadPoolExecutor(1) as pool:
        found = gram(parts, pool).double()
    assert float((found - whole.T @ whole).norm() / (whole.T @ whole).norm()) < 2e-3


def test_a_cross_product_takes_lists_of_two_widths() -> None:
    import torch
    from ingot.stages.model.calibration.gram import cross

    first, second = batches(300, (30, 4)), batches(700, (30, 4), seed=1)
    with ThreadPoolExecutor(2) as pool:
        found = cross(first, second, pool)
    torch.testing.assert_close(found, torch.cat(first).T @ torch.cat(second), rtol=1e-5, atol=1e-4)
