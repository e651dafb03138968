"""Quantization stages: checkpoint in, the one quantized form out."""
