"""Which library builds engines here, by what is installed of it."""

from __future__ import annotations

import ctypes.util

import pytest
from ingot.targets import libraries


@pytest.mark.parametrize(
    ("modules", "has_nvinfer", "expected"),
    [
        (set(), False, "none"),
        ({"tensorrt_rtx"}, False, "tensorrt_rtx"),
        ({"tensorrt", "tensorrt_libs"}, False, "tensorrt"),
        ({"tensorrt"}, True, "tensorrt"),
        # Bindings alone import nothing.
        ({"tensorrt"}, False, "none"),
        ({"tensorrt", "tensorrt_rtx"}, False, "tensorrt_rtx"),
    ],
)
def test_a_library_counts_when_all_of_it_is_there(
    modules: set[str], has_nvinfer: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "_has_module", lambda name: name in modules)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: "libnvinfer.so" if has_nvinfer else None)
    assert libraries.tensorrt_library.__wrapped__() == expected


def test_nothing_is_looked_for_where_the_bindings_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_has_module", lambda name: False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: pytest.fail("a program was started"))
    assert libraries.tensorrt_library.__wrapped__() == "none"
