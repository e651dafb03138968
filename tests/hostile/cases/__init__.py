"""The hostile inputs by subject, under their numbers in the list of the design notes."""

from __future__ import annotations

from . import onnx, others, pickles, safetensors

GROUPS = {
    "safetensors": safetensors.CASES,
    "pickle": pickles.CASES,
    "onnx": onnx.CASES,
    "other": others.CASES,
}
