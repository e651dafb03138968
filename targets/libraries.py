"""Which optional libraries this machine has, found without importing them, so that planning stays fast."""

from __future__ import annotations

import contextlib
import ctypes.util
import functools
import importlib.metadata
import importlib.util

# A distribution may be named after the CUDA that it is for.
CUDA_SUFFIXES = ("-cu13", "-cu12")
# The extra of Ingot that brings a distribution, in versions that were tried together.
EXTRAS = {"executorch": "arm", "torchao": "arm", "tensorrt-rtx": "nvidia"}
TENSORRT, TENSORRT_RTX, NONE = "tensorrt", "tensorrt_rtx", "none"
# The compute capabilities, times ten, that TensorRT-RTX builds engines for and runs on; none of Hopper.
RTX_SM = (75, 80, 86, 89, 120, 121)


@functools.cache
def tensorrt_library() -> str:
    """What builds TensorRT engines here: `tensorrt`, `tensorrt_rtx` or `none`.

    The bindings of `tensorrt` install without the library that they load, so both must be found.
    """
    # Looking for a library starts a program, so it comes last.
    if _has_module(TENSORRT) and (_has_module("tensorrt_libs") or ctypes.util.find_library("nvinfer")):
        return TENSORRT
    return TENSORRT_RTX if _has_module(TENSORRT_RTX) else NONE


def version_of(library: str) -> str | None:
    """The version of an installed library by the name of its module, None where it is not installed."""
    for suffix in ("", *CUDA_SUFFIXES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(library.replace("_", "-") + suffix)
    return None


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
