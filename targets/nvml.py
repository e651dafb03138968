"""What an NVIDIA GPU does while it is measured: utilisation, clocks, memory and power, by NVML.

The library comes with the driver and is called as its documentation describes: nothing is installed for it.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
# NVML_CLOCK_SM of nvmlClockType_t.
SM_CLOCK = 1
PERIOD_SECONDS = 0.02


class _Utilization(ctypes.Structure):
    """nvmlUtilization_t: shares of the last sample period in percent."""

    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = [
        ("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong),
    ]  # fmt: skip


@dataclass
class Watch:
    """Samples a device while its block runs; nothing where NVML is not here.

    device: its number.  library: NVML, opened here when None.
    """

    device: int = 0
    library: Any = None
    samples: dict[str, list[float]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._handle = ctypes.c_void_p()
        self._thread: threading.Thread | None = None
        if self._opened():
            self._thread = threading.Thread(target=self._watch, name="nvml", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self.library.nvmlShutdown()

    def summary(self) -> dict[str, float]:
        """Of each reading the median, lowest and highest: percent, MHz, bytes, watts; empty without NVML."""
        return {
            f"{name}_{which}": round(float(fold(values)), 1)
            for name, values in self.samples.items()
            for which, fold in (("p50", median), ("min", min), ("max", max))
        }

    def _opened(self) -> bool:
        if self.library is None:
            try:
                self.library = ctypes.CDLL(LIBRARY)
            except OSError:
                return False
        if self.library.nvmlInit_v2():
            return False
        return not self.library.nvmlDeviceGetHandleByIndex_v2(self.device, ctypes.byref(self._handle))

    def _watch(self) -> None:
        self._sample()
        while not self._ended.wait(PERIOD_SECONDS):
            self._sample()

    def _sample(self) -> None:
        used, memory = _Utilization(), _Memory()
        clock, power = ctypes.c_uint(), ctypes.c_uint()
        nvml, handle = self.library, self._handle
        if not nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(used)):
            self._add("utilisation_percent", used.gpu)
        if not nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
            self._add("memory_used_bytes", memory.used)
        if not nvml.nvmlDeviceGetClockInfo(handle, SM_CLOCK, ctypes.byref(clock)):
            self._add("sm_clock_mhz", clock.value)
        if not nvml.nvmlDeviceGetPowerUsage(handle, ctypes.byref(power)):
            self._add("power_watts", power.value / 1000)

    def _add(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)
