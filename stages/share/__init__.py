"""Sharing: layers that use one set of weights, which is stored once."""
