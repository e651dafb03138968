"""Checkpoint export: a Hugging Face directory, its quantized weights in a layout that GPU programs read."""
