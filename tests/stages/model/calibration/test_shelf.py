"""What is kept is what was given; past the budget it lies in files that nobody else sees."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_past_the_budget_tensors_lie_in_files_without_names(dtype: str, tmp_path: Path) -> None:
    import torch
    from ingot.stages.model.calibration.shelf import Shelf

    shelf = Shelf(5_000, tmp_path)
    given = [torch.randn(30, 20).to(getattr(torch, dtype)) for _ in range(6)]
    kept = [shelf.keep(each) for each in given]
    assert all(torch.equal(one, other) for one, other in zip(given, kept, strict=True))
    inside = sum(one is other for one, other in zip(given, kept, strict=True))
    assert inside == 5_000 // (600 * given[0].element_size())
    assert shelf.spilled_bytes == (6 - inside) * 600 * given[0].element_size()
    assert not list(tmp_path.iterdir())


def test_what_was_let_go_of_makes_room(tmp_path: Path) -> None:
    import torch
    from ingot.stages.model.calibration.shelf import Shelf

    shelf = Shelf(5_000, tmp_path)
    for _ in range(10):
        kept = shelf.keep(torch.zeros(1_000))
        del kept
        gc.collect()
    assert shelf.spilled_bytes == 0


def test_a_transposed_tensor_and_an_empty_one_are_kept_as_they_are(tmp_path: Path) -> None:
    import torch
    from ingot.stages.model.calibration.shelf import Shelf

    shelf = Shelf(0, tmp_path)
    value = torch.arange(12.0).reshape(3, 4).T
    assert torch.equal(shelf.keep(value), value)
    assert shelf.keep(torch.empty(0, 7)).shape == (0, 7)
