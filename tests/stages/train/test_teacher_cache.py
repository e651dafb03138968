"""What is kept of a teacher: found again, whole or not at all."""

from __future__ import annotations

import numpy as np
import torch
from ingot.stages.train.divergence import Likeliest
from ingot.stages.train.teacher_cache import Cache
from ingot.stages.train.text import Windows

CPU = torch.device("cpu")


def windows() -> Windows:
    predicted = np.array([[False, True, True], [False, False, True], [False, True, True]])
    return Windows(np.zeros((3, 3), np.int32), predicted, np.full(3, 3))


def made(count: int, seed: int) -> Likeliest:
    logits = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return Likeliest.of(logits.log_softmax(-1), 4)


def same(one: Likeliest, other: Likeliest) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def test_predictions_are_found_in_the_order_that_they_are_asked_for(tmp_path):
    cache, found = Cache(tmp_path, windows(), 4), made(3, 1)
    cache.put(torch.tensor([2, 1]), found)
    assert same(cache.get(torch.tensor([2, 1]), CPU), found)
    turned = cache.get(torch.tensor([1, 2]), CPU)
    assert torch.equal(turned.ids, found.ids[[2, 0, 1]])
    assert cache.get(torch.tensor([0, 1]), CPU) is None


def test_another_run_finds_what_was_kept_and_nothing_that_was_damaged(tmp_path):
    cache = Cache(tmp_path, windows(), 4)
    cache.put(torch.tensor([0]), made(2, 1))
    cache.put(torch.tensor([1]), made(1, 2))
    del cache
    again = Cache(tmp_path, windows(), 4)
    assert same(again.get(torch.tensor([0]), CPU), made(2, 1))
    tail = np.load(tmp_path / "tail.npy", mmap_mode="r+")
    tail[0] += 0.1
    tail.flush()
    assert again.get(torch.tensor([0]), CPU) is None
    assert same(again.get(torch.tensor([1]), CPU), made(1, 2))


def test_files_of_another_form_are_begun_anew(tmp_path):
    Cache(tmp_path, windows(), 4).put(torch.tensor([0]), made(2, 1))
    assert Cache(tmp_path, windows(), 3).get(torch.tensor([0]), CPU) is None
