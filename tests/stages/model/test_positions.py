"""Buckets of distances are those that transformers computes, at the edges too."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.stages.model.families import RelativeBias
from ingot.stages.model.positions import buckets


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("count", "longest"), [(32, 128), (12, 20), (8, 16), (64, 512), (32, 256)])
def test_every_distance_has_the_bucket_that_transformers_gives_it(
    count: int, longest: int, both: bool
) -> None:
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    expected = T5Attention._relative_position_bucket(
        torch.arange(-longest, longest + 1), bidirectional=both, num_buckets=count, max_distance=longest
    )
    assert np.array_equal(buckets(RelativeBias("table", count, longest, both)), expected.numpy())


@pytest.mark.parametrize("both", [True, False])
def test_distances_beyond_the_longest_share_its_bucket_in_transformers(both: bool) -> None:
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    far = T5Attention._relative_position_bucket(
        torch.tensor([-5000, -129, -128, 128, 129, 5000]),
        bidirectional=both,
        num_buckets=32,
        max_distance=128,
    ).tolist()
    assert far[0] == far[1] == far[2]
    assert far[3] == far[4] == far[5]
