"""Ingot: from a trained checkpoint to a deployable artifact for a device, with proof of what it cost."""

__version__ = "0.1.0"

__all__ = ["__version__"]
