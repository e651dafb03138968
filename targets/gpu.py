"""NVIDIA GPUs of this machine, asked of the driver itself, so that planning loads no framework."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The names and numbers of the CUDA driver API (CUdevice_attribute, CUresult).
LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
SM_MAJOR, SM_MINOR, CLOCK_KHZ, MEMORY_CLOCK_KHZ = 75, 76, 13, 36
NAME_BYTES = 256
CUDA_OF_TORCH = re.compile(r"^cuda\s*(?::[^=]*)?=\s*['\"]([\d.]+)['\"]", re.MULTILINE)


@dataclass(frozen=True)
class Gpu:
    """One device. sm: its compute capability, `90` for 9.0.  clocks: the highest of its cores and its memory.

    driver: the newest CUDA that the driver runs, such as `13.0`.
    """

    name: str
    sm: str
    memory_bytes: int
    clock_mhz: int
    memory_clock_mhz: int
    driver: str

    def facets(self) -> dict[str, object]:
        """What of it changes results or times."""
        return {
            "name": self.name,
            "sm": self.sm,
            "clock_mhz": self.clock_mhz,
            "memory_clock_mhz": self.memory_clock_mhz,
            "driver": self.driver,
        }


@functools.cache
def probe() -> tuple[Gpu, ...]:
    """The devices that this process may use, in CUDA's order; none without a driver or a device."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return ()
    return read(library)


def read(library: Any) -> tuple[Gpu, ...]:
    """The devices that an opened driver library knows; none when it cannot be started."""
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    library.cuDriverGetVersion(ctypes.byref(version))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return tuple(_device(library, number, driver) for number in range(count.value))


def _device(library: Any, number: int, driver: str) -> Gpu:
    name, memory = ctypes.create_string_buffer(NAME_BYTES), ctypes.c_size_t(0)
    library.cuDeviceGetName(name, NAME_BYTES, number)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), number)

    def attribute(which: int) -> int:
        value = ctypes.c_int(0)
        library.cuDeviceGetAttribute(ctypes.byref(value), which, number)
        return value.value

    return Gpu(
        name.value.decode("utf-8", "replace"),
        f"{attribute(SM_MAJOR)}{attribute(SM_MINOR)}",
        memory.value,
        attribute(CLOCK_KHZ) // 1000,
        attribute(MEMORY_CLOCK_KHZ) // 1000,
        driver,
    )


@functools.cache
def cuda_of_torch() -> str | None:
    """The CUDA that the installed torch is built for, such as `13.0`, read without importing it, or None."""
    found = importlib.util.find_spec("torch")
    for place in (found.submodule_search_locations or ()) if found else ():
        file = Path(place) / "version.py"
        if file.is_file() and (match := CUDA_OF_TORCH.search(file.read_text("utf-8"))):
            return match[1]
    return None
