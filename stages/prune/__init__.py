"""Pruning: weights that matter least become zeros."""
