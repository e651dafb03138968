"""Figures that estimates share: what a process holds and takes to start, what a weight is stored in."""

from __future__ import annotations

MB = 1_000_000
FLOAT32 = 4
# A Python process with numpy, with onnx and its runtime, and with torch and transformers.
PROCESS_BYTES, RUNTIME_BYTES, TORCH_BYTES = 45 * MB, 85 * MB, 430 * MB
PROCESS_SECONDS, RUNTIME_SECONDS, TORCH_SECONDS = 0.25, 0.35, 4.5
# Bytes of a quantized weight as codes with their scales, and what configs and tokenizers add.
CODES = 1.2
SIDECARS = MB // 2
# Log-probabilities of the 50 likeliest tokens with their ids, and the rest of what is kept of a prediction.
LOGITS_BYTES = 50 * 8 + 16
