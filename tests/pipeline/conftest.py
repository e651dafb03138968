"""The toy plugin on the path of this process and of every worker it starts; hand-made measurements."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
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


@pytest.fixture(scope="session")
def samples() -> ModuleType:
    """The module `samples.py` beside this file: hand-made measurements and reports."""
    name = "ingot_test_samples"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("samples.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
