"""Floating-point dtypes by their two names, and which of them a checkpoint has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...artifacts.tensor_header import TensorShape

# Widest first. safetensors' name → that of torch, numpy and configs.
NAMES: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Those that a person may ask for, and how they are stored.
STORED: Mapping[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
# What a config says of them; old ones have the second key.
KEYS = ("dtype", "torch_dtype")


def main_dtype(shapes: Iterable[TensorShape]) -> str:
    """The dtype that holds most of the parameters in floating point, such as bfloat16.

    Raises ValueError where none are.
    """
    counts: dict[str, int] = {}
    for shape in shapes:
        if shape.dtype in NAMES:
            counts[shape.dtype] = counts.get(shape.dtype, 0) + shape.count
    return NAMES[max(counts, key=counts.__getitem__)]


def with_dtype(config: Mapping[str, object], dtype: str) -> dict[str, object]:
    """The config of the same network with its weights in ``dtype``, such as bfloat16."""
    named = [key for key in KEYS if key in config] or [KEYS[0]]
    return {**config, **dict.fromkeys(named, dtype)}
