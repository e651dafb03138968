"""`dare_ties`: `ties` of what chance leaves."""

from __future__ import annotations

import torch


def test_it_is_the_vote_of_what_dare_keeps_of_each_model(merge):
    generator = torch.Generator().manual_seed(0)
    deltas, zeros = [torch.randn(5000, generator=generator) for _ in range(3)], torch.zeros(5000)
    each = [{"weight": weight, "density": 0.6} for weight in (0.5, 0.3, 0.2)]
    found = merge("dare_ties", deltas, zeros, each, rescale=False)
    # Input i draws from the stream of its number, so the others are put in its way with nothing to add.
    kept = []
    for number in range(3):
        alone = [delta if place == number else zeros for place, delta in enumerate(deltas)]
        kept.append(merge("dare_linear", alone, zeros, each, rescale=False))
    total = sum(kept)
    elected = torch.where(total >= 0, 1.0, -1.0)
    expected = sum(torch.where(each.sign() == elected, each, 0.0) for each in kept)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_all_of_every_model_is_ties_with_nothing_trimmed(merge):
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(500, generator=generator) for _ in range(4)]
    each = [{"weight": 0.7, "density": 1.0}] * 3
    found = merge("dare_ties", tensors[1:], tensors[0], each, normalize=True)
    assert torch.equal(found, merge("ties", tensors[1:], tensors[0], each))
