"""Pruning: weights that matter least become zeros; channels and layers that do go for good."""
