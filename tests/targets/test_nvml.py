"""What a GPU does while it is measured, from a toy of NVML that answers as its documentation says."""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING, Any

from ingot.targets.nvml import Watch

if TYPE_CHECKING:
    import pytest


class Nvml:
    """The library of a machine with one device; readings change from call to call."""

    def __init__(self, starts: bool = True, has_power: bool = True) -> None:
        self.starts, self.has_power, self.calls, self.ended = starts, has_power, 0, 0

    def nvmlInit_v2(self) -> int:
        return 0 if self.starts else 9

    def nvmlShutdown(self) -> int:
        self.ended += 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = 1
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle: Any, found: Any) -> int:
        self.calls += 1
        found._obj.gpu, found._obj.memory = 10 * min(self.calls, 3), 5
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, found: Any) -> int:
        found._obj.used = 3 << 30
        return 0

    def nvmlDeviceGetClockInfo(self, handle: Any, which: int, found: Any) -> int:
        assert which == 1
        found._obj.value = 1980
        return 0

    def nvmlDeviceGetPowerUsage(self, handle: Any, found: Any) -> int:
        found._obj.value = 350_000
        return 0 if self.has_power else 3


def test_readings_are_summed_up_while_the_block_runs() -> None:
    library = Nvml()
    with Watch(library=library) as watch:
        while library.calls < 5:
            time.sleep(0.01)
    found = watch.summary()
    assert library.ended == 1
    assert (found["utilisation_percent_min"], found["utilisation_percent_max"]) == (10, 30)
    assert found["utilisation_percent_p50"] == 30
    assert found["memory_used_bytes_max"] == 3 << 30
    assert found["sm_clock_mhz_p50"] == 1980
    assert found["power_watts_p50"] == 350


def test_a_reading_that_the_device_does_not_give_is_left_out() -> None:
    with Watch(library=Nvml(has_power=False)) as watch:
        pass
    assert "power_watts_p50" not in watch.summary()
    assert "sm_clock_mhz_p50" in watch.summary()


def test_where_nvml_is_missing_or_does_not_start_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    with Watch(library=Nvml(starts=False)) as watch:
        pass
    assert watch.summary() == {}
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with Watch() as watch:
        pass
    assert watch.summary() == {}
