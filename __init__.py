"""Ingot: from a trained checkpoint to a deployable artifact for a device, with proof of what it cost.

What is listed in ``__all__`` is what a user may rely on; it is imported when it is first asked for, so that
``import ingot`` and ``ingot --help`` stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .artifacts.errors import IngotError
    from .artifacts.schema import param
    from .artifacts.store import Store
    from .pipeline.api import plan, run
    from .pipeline.inspection import inspect
    from .pipeline.run import Run
    from .stages.base import Context, Result, stage
    from .stages.validate.plugins import metric
    from .targets.profile import Profile as Target

__version__ = "0.1.0"

__all__ = [
    "Context",
    "IngotError",
    "Result",
    "Run",
    "Store",
    "Target",
    "__version__",
    "inspect",
    "metric",
    "param",
    "plan",
    "run",
    "stage",
]

_PLACES = {
    "Context": ("stages.base", "Context"),
    "IngotError": ("artifacts.errors", "IngotError"),
    "Result": ("stages.base", "Result"),
    "Run": ("pipeline.run", "Run"),
    "Store": ("artifacts.store", "Store"),
    "Target": ("targets.profile", "Profile"),
    "inspect": ("pipeline.inspection", "inspect"),
    "metric": ("stages.validate.plugins", "metric"),
    "param": ("artifacts.schema", "param"),
    "plan": ("pipeline.api", "plan"),
    "run": ("pipeline.api", "run"),
    "stage": ("stages.base", "stage"),
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(importlib.import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value
