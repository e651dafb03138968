"""Of the stand-in: what holds a recipe."""

from types import SimpleNamespace


class GPTQModifier(SimpleNamespace):
    """Keeps its arguments."""
