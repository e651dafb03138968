"""What products lose by rounding, against plain loops and numbers worked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ingot.stages.model.quantized import ActivationGrid
from ingot.stages.quantize.products import relative, some_rows, squared_errors


def test_what_has_codes_of_its_own_is_without_error() -> None:
    # Both rows of the weight are whole steps of a scale of 1, and so are the inputs.
    weight = torch.tensor([[127.0, -3.0], [5.0, 127.0]])
    inputs = torch.tensor([[127.0, 4.0], [-127.0, 60.0]])
    forms = {"none": "none", "dynamic": "dynamic", "grid": ActivationGrid(1.0, 128)}
    assert squared_errors(inputs, [weight], forms) == (dict.fromkeys(forms, 0.0), float(
        (inputs @ weight.T).square().sum()
    ))  # fmt: skip


def test_a_grid_clips_and_rounds() -> None:
    weight = torch.tensor([[127.0]])
    # Steps of 2 about code 10 reach from -20 to 490: 300 is one of them, -300 clips, 5 rounds to 4.
    inputs = torch.tensor([[300.0], [-300.0], [5.0]])
    lost, whole = squared_errors(inputs, [weight], {"grid": ActivationGrid(2.0, 10)})
    assert lost["grid"] == pytest.approx(127**2 * (0 + 280**2 + 1))
    assert relative(lost["grid"], whole) == pytest.approx(np.sqrt((280**2 + 1) / (2 * 300**2 + 25)))


def test_rows_and_weights_are_rounded_by_their_largest_magnitudes() -> None:
    rng = np.random.default_rng(0)
    inputs, weight = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 8), (6, 8)))

    def rounded(rows: np.ndarray) -> np.ndarray:
        steps = np.array([max(abs(row)) / 127 for row in rows])[:, None]
        return np.round(rows / steps) * steps

    expected = ((rounded(inputs) @ rounded(weight).T - inputs @ weight.T) ** 2).sum()
    tensors = [torch.from_numpy(each) for each in (inputs, weight)]
    lost, _ = squared_errors(tensors[0], [tensors[1]], {"it": "dynamic"})
    assert lost["it"] == pytest.approx(expected, rel=1e-3)


def test_nothing_is_lost_of_nothing() -> None:
    assert relative(0.0, 0.0) == 0.0
    lost, whole = squared_errors(torch.zeros(3, 4), [torch.ones(2, 4)], {"it": "dynamic"})
    assert (lost["it"], whole) == (0.0, 0.0)


@pytest.mark.parametrize(("sizes", "most", "taken"), [
    ([10, 10], 5, [0, 4, 8, 12, 16]),
    ([3, 0, 7], 3, [0, 3, 6]),
    ([2, 2], 10, [0, 1, 2, 3]),
])  # fmt: skip
def test_rows_are_taken_evenly_across_batches(sizes: list[int], most: int, taken: list[int]) -> None:
    rows = torch.arange(sum(sizes), dtype=torch.bfloat16)[:, None]
    stop = SimpleNamespace(inputs=torch.split(rows, sizes), rows=len(rows))
    found = some_rows(stop, most)
    assert found.dtype == torch.float32
    assert found[:, 0].tolist() == taken
