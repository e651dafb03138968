"""Quantized weights as torchao writes them for XNNPACK: the checkpoint's codes and scales, never rounded."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from ...model.quantized import QuantizedWeight


def codes_tensor(weight: QuantizedWeight) -> Any:
    """A weight as torchao's `IntxUnpackedToInt8Tensor` with int8 activations that are scaled a token.

    Its codes are about zero: those of the checkpoint less 2^(bits−1), the symmetric zero point.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization.quantize_.workflows.intx import intx_unpacked_to_int8_tensor as intx

    form = weight.spec.format
    middle = 1 << form.bits - 1
    codes = torch.from_numpy((weight.codes.astype(np.int16) - middle).astype(np.int8))
    scales = torch.from_numpy(weight.scales.copy())
    return intx.IntxUnpackedToInt8Tensor(
        codes,
        scales,
        torch.zeros_like(scales, dtype=torch.int8),
        getattr(torch, f"int{form.bits}"),
        (1, form.group_size or codes.shape[1]),
        torch.float32,
        intx.IntxUnpackedToInt8TensorActivationQuantization.INT8_ASYM_PER_TOKEN,
    )


def dynamic_linear(weight: QuantizedWeight, bias: torch.Tensor | None) -> torch.nn.Linear:
    """A `torch.nn.Linear` that computes with the codes of a weight [out, in]."""
    out_features, in_features = weight.spec.shape
    module: torch.nn.Linear = torch.nn.utils.skip_init(  # type: ignore[no-untyped-call]
        torch.nn.Linear, in_features, out_features, bias=bias is not None
    )
    module.weight = torch.nn.Parameter(codes_tensor(weight), requires_grad=False)
    if bias is not None:
        module.bias = torch.nn.Parameter(bias, requires_grad=False)
    return module
