"""Graphs traced from transformers' own code, for architectures that the table does not hold."""
