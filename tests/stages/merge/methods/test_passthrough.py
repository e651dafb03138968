"""`passthrough`: bit for bit, or scaled."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_bytes_are_copied_as_they_are(merge, dtype, scale):
    bits = torch.randint(0, 256, (4096 * dtype.itemsize,), dtype=torch.uint8).view(dtype)
    found = merge("passthrough", [bits], each=[{"scale": scale}], dtype=dtype)
    assert found.view(torch.uint8).tolist() == bits.view(torch.uint8).tolist()


def test_a_scaled_tensor_is_multiplied(merge):
    assert merge("passthrough", [[1.0, -2.0]], each=[{"scale": 0.5}]).tolist() == [0.5, -1.0]


def test_another_dtype_is_rounded_to(merge):
    found = merge("passthrough", [[1.0, 1 + 2**-9, 1 + 3 * 2**-9]], dtype=torch.bfloat16)
    assert found.tolist() == [1.0, 1.0, 1 + 2**-7]
