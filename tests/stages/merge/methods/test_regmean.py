"""`regmean`: the equation of the paper, solved another way, and what it makes of real checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from ingot.stages.merge.methods.regmean import nearest
from ingot.stages.merge.statistics import Statistic
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path


def drawn(seed: int, rows: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [rows, 5] whose features go together, and a map [3, 5]; float64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    inputs = torch.randn(rows, 5, generator=generator, dtype=torch.float64) @ mixing
    return inputs, torch.randn(3, 5, generator=generator, dtype=torch.float64)


def test_it_is_the_least_squares_solution_over_all_models_inputs_and_outputs():
    pairs = [drawn(seed) for seed in range(3)]
    inputs = torch.cat([x for x, _ in pairs])
    outputs = torch.cat([x @ w.T for x, w in pairs])
    expected = torch.linalg.lstsq(inputs, outputs).solution.T
    found = nearest([w for _, w in pairs], [x.T @ x for x, _ in pairs], alpha=1.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_without_products_between_features_each_is_averaged_by_its_mean_square():
    pairs = [drawn(seed) for seed in range(2)]
    squares = [x.square().sum(0) for x, _ in pairs]
    expected = sum(w * s for (_, w), s in zip(pairs, squares, strict=True)) / sum(squares)
    found = nearest([w for _, w in pairs], [x.T @ x for x, _ in pairs], alpha=0.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_features_that_no_text_reaches_are_averaged():
    (x, first), (y, second) = drawn(0), drawn(1)
    x[:, 2] = y[:, 2] = 0
    found = nearest([first, second], [x.T @ x, y.T @ y], alpha=0.9)
    torch.testing.assert_close(found[:, 2], (first[:, 2] + second[:, 2]) / 2)
    assert nearest([first, second], [torch.zeros(5, 5, dtype=torch.float64)] * 2, 0.9).isfinite().all()


@pytest.mark.parametrize("axis", [0, 1])
def test_maps_are_taken_as_they_are_stored(axis: int, stored: Any, carry: Any) -> None:
    pairs = [drawn(seed) for seed in range(2)]
    products = [x.T @ x / len(x) for x, _ in pairs]
    operands = [stored((w if axis else w.T.contiguous()).float()) for _, w in pairs]
    for operand, product in zip(operands, products, strict=True):
        operand.statistic = Statistic(stored(product.float()), axis)
    found = carry("regmean", operands, each=[{"weight": 2.0}, {"weight": 1.0}])
    expected = nearest([w for _, w in pairs], [2 * products[0], products[1]], alpha=0.9).float()
    torch.testing.assert_close(found if axis else found.T, expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_linear_map_is_averaged(merge: Any) -> None:
    each = [{"weight": 3.0}, {"weight": 1.0}]
    assert merge("regmean", [[1.0, 2.0], [3.0, 6.0]], each=each).tolist() == [1.5, 3.0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_linear_maps_alone_are_no_average_and_one_model_twice_is_itself(
    family: str, merged: Any, sibling: Any, text: Path
) -> None:
    a, b = sibling(family, "a"), sibling(family, "b")
    models = {"models": [{"model": str(a)}, {"model": str(b)}]}
    settings = {"calibration": str(text), "samples": 4, "window": 16, "compute_dtype": "float32"}
    found = merged("merge.regmean", {**models, **settings})
    left, right, made = (load_file(each / "model.safetensors") for each in (a, b, found.path))
    changed = [
        name
        for name, value in made.items()
        if not torch.allclose(value, (left[name] + right[name]) / 2, rtol=1e-4, atol=1e-5)
    ]
    assert changed
    assert all(made[name].ndim == 2 for name in changed)
    twice = merged("merge.regmean", {"models": [{"model": str(a)}, {"model": str(a)}], **settings})
    for name, value in load_file(twice.path / "model.safetensors").items():
        torch.testing.assert_close(value, left[name], rtol=1e-5, atol=1e-6)
