"""Selection against sorting, whatever the values, the ties and the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ingot.artifacts.tensors import TensorShape
from ingot.stages.merge import selection
from ingot.stages.merge.blocks import Blocks, Workers
from ingot.stages.merge.selection import largest


def kept(values: torch.Tensor, counts: list[int], elements: int) -> list[list[bool]]:
    """Which elements are selected, by blocks of that size."""
    with Workers(1) as workers:
        blocks = Blocks(TensorShape("w", "F32", tuple(values.shape)), workers, elements=elements)

        def magnitudes(block):
            return [values[block.start : block.stop]] * len(counts)

        cuts = largest(blocks, magnitudes, counts)
        return [
            torch.cat(blocks.map(lambda b, cut=cut: cut.keeps(values[b.start : b.stop], b))).tolist()
            for cut in cuts
        ]


def truth(values: torch.Tensor, count: int) -> list[bool]:
    """By sorting; numpy's stable sort leaves equal elements in their order."""
    order = np.argsort(-values.numpy(), kind="stable")[:count]
    chosen = np.zeros(len(values), bool)
    chosen[order] = True
    return chosen.tolist()


@settings(max_examples=150, deadline=None)
@given(data=st.data(), levels=st.sampled_from([1, 2, 5, 1000]), elements=st.integers(1, 300))
def test_exactly_as_many_are_kept_and_of_equal_ones_the_first(data, levels, elements):
    size = data.draw(st.integers(1, 500))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = torch.from_numpy(generator.integers(0, levels, size).astype(np.float32) / 7)
    counts = [data.draw(st.integers(1, size)) for _ in range(2)]
    assert kept(values, counts, elements) == [truth(values, count) for count in counts]


@pytest.mark.parametrize("arrangement", ["random", "rising", "falling", "two halves", "few values"])
@pytest.mark.parametrize("share", [1e-4, 0.2, 0.5, 0.97, 1.0])
def test_a_sample_that_misleads_costs_passes_and_no_exactness(monkeypatch, arrangement, share):
    monkeypatch.setattr(selection, "PIECES", 8)
    monkeypatch.setattr(selection, "PIECE", 32)
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(20_000, generator=generator)
    if arrangement == "two halves":
        # What is sampled is as small as nothing else.
        values += 1
        for piece in range(8):
            start = 20_000 // 32 * piece // 8 * 32
            values[start : start + 32] -= 1
    elif arrangement == "few values":
        values = (values * 20).floor()
    elif arrangement != "random":
        values = values.sort(descending=arrangement == "falling").values
    count = max(1, int(share * len(values)))
    assert kept(values, [count], 1000) == [truth(values, count)]
