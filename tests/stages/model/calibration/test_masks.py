"""Masks: exactly as many entries go as are asked for, and none that stays is less than one that goes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

SPARSITIES = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)


@settings(max_examples=60, deadline=None)
@given(
    kept=st.sampled_from([(2, 4), (4, 8), (1, 4), (3, 4)]),
    groups=st.integers(1, 6),
    rows=st.integers(1, 7),
    distinct=st.sampled_from([2, 5, 10_000]),
    seed=st.integers(0, 999),
)
def test_of_every_group_the_least_go_and_exactly_so_many(kept, groups, rows, distinct, seed) -> None:
    import torch
    from ingot.stages.model.calibration.masks import least_of_groups

    stay, group = kept
    scores = np.random.default_rng(seed).integers(0, distinct, (rows, groups * group)).astype(np.float32)
    gone = least_of_groups(torch.from_numpy(scores), group, 1 - stay / group).numpy()
    for row, mask in zip(scores.reshape(-1, group), gone.reshape(-1, group), strict=True):
        assert mask.sum() == group - stay
        assert row[mask].max() <= row[~mask].min()


@settings(max_examples=60, deadline=None)
@given(
    sparsity=SPARSITIES,
    rows=st.integers(1, 6),
    width=st.integers(1, 40),
    distinct=st.sampled_from([1, 3, 10_000]),
    seed=st.integers(0, 999),
)
def test_of_a_row_and_of_a_whole_weight_exactly_the_share_goes(sparsity, rows, width, distinct, seed) -> None:
    import torch
    from ingot.stages.model.calibration.masks import least_of_all, least_of_groups, share_of

    scores = np.random.default_rng(seed).integers(0, distinct, (rows, width)).astype(np.float32)
    by_row = least_of_groups(torch.from_numpy(scores), 0, sparsity).numpy()
    assert (by_row.sum(1) == round(sparsity * width)).all()
    count = share_of(sparsity, scores.size)
    gone = least_of_all(torch.from_numpy(scores), count).numpy()
    assert gone.sum() == count
    if 0 < count < scores.size:
        assert scores[gone].max() <= scores[~gone].min()


def test_of_equal_scores_the_first_go() -> None:
    import torch
    from ingot.stages.model.calibration.masks import least_of_all, least_of_groups

    equal = torch.ones(2, 4)
    assert least_of_groups(equal, 4, 0.5).tolist() == [[True, True, False, False]] * 2
    assert least_of_all(equal, 3).tolist() == [[True, True, True, False], [False] * 4]
