"""The toy plugin on the path of this process and of every worker it starts."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

PLUGIN = Path(__file__).parents[1] / "data" / "plugin"


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Installs the plugin `ingot_toy` the way a third party's is found: its folder is on the path.

    Returns its driver: ``toys.run(store, toys.node(name, stage, inputs, **params), ...)``.
    """
    monkeypatch.syspath_prepend(PLUGIN)
    paths = [str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return importlib.import_module("ingot_toy.driver")
