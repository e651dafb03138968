"""Which optional libraries this machine has, found without importing them, so that planning stays fast."""

from __future__ import annotations

import ctypes.util
import functools
import importlib.util

TENSORRT, TENSORRT_RTX, NONE = "tensorrt", "tensorrt_rtx", "none"


@functools.cache
def tensorrt_library() -> str:
    """What builds TensorRT engines here: `tensorrt`, `tensorrt_rtx` or `none`.

    The bindings of `tensorrt` install without the library that they load, so both must be found.
    """
    # Looking for a library starts a program, so it comes last.
    if _has_module(TENSORRT) and (_has_module("tensorrt_libs") or ctypes.util.find_library("nvinfer")):
        return TENSORRT
    return TENSORRT_RTX if _has_module(TENSORRT_RTX) else NONE


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
