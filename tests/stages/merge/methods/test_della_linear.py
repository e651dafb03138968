"""`della_linear`: the masks of `della`, added."""

from __future__ import annotations

import torch


def test_what_is_kept_is_added_without_a_vote(merge):
    torch.manual_seed(0)
    delta, each = torch.randn(100, 33), {"weight": 1.0, "density": 0.5}
    given, base = [delta, -delta], torch.zeros(100, 33)
    found = merge("della_linear", given, base, [each] * 2, rescale=False)
    alone = merge("della", given[:1], base, [each], rescale=False)
    # The first model's mask is the same: its difference stays where the other's is dropped, and else cancels.
    assert set((found / delta).unique().tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(alone[found == delta], delta[found == delta])
    assert ((alone != 0) & (found == 0)).any()
