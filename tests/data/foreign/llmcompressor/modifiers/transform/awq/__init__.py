"""Of the stand-in: what holds a recipe."""

from types import SimpleNamespace


class AWQModifier(SimpleNamespace):
    """Keeps its arguments."""
