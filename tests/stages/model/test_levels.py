"""The levels of nf4 and fp8, against the quantiles that define the one and torch's type of the other."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.stages.model.levels import E4M3_LARGEST, levels


def test_nf4_is_the_quantiles_of_a_normal_distribution_with_an_exact_zero() -> None:
    from scipy.stats import norm

    # Seven levels below zero and eight above, evenly spaced in probability, the outermost where half of a
    # 1/32nd remains on average of both spacings (QLoRA, section 3 and its published code).
    edge = (1 - 1 / 32 + 1 - 1 / 30) / 2
    positive = norm.ppf(np.linspace(edge, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(edge, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([negative, [0], positive])) / norm.ppf(edge)
    assert levels("nf4") == pytest.approx(expected, abs=2e-7)


def test_fp8_is_what_torch_makes_of_every_byte() -> None:
    import torch

    theirs = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(levels("fp8_e4m3"), theirs, equal_nan=True)
    assert np.nanmax(levels("fp8_e4m3")) == E4M3_LARGEST
