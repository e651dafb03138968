"""The `ingot` command: commands are found by name and imported only when they are called."""

from .app import main

__all__ = ["main"]
