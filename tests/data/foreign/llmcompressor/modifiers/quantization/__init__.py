"""Of the stand-in: what holds a recipe."""

from types import SimpleNamespace


class QuantizationModifier(SimpleNamespace):
    """Keeps its arguments."""
