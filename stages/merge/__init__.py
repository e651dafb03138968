"""Merging checkpoints of one architecture: planned from headers alone, then carried out block by block."""
