"""GPUs as the driver tells of them: the numbers and calls of its documented interface, played by a toy."""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import replace
from typing import Any

import pytest
from ingot.targets import gpu, host
from ingot.targets.gpu import Gpu

H100 = Gpu("NVIDIA H100 80GB HBM3", "90", 85_000_000_000, 1980, 2619, "13.0")


class Driver:
    """libcuda of a machine with one H100; attributes are numbered as in the header of CUDA 13."""

    def __init__(self, starts: bool = True, devices: int = 1) -> None:
        self.starts, self.devices = starts, devices

    def cuInit(self, flags: int) -> int:
        return 0 if self.starts else 100

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13000
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: int) -> int:
        name.value = H100.name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: int) -> int:
        memory._obj.value = H100.memory_bytes
        return 0

    def cuDeviceGetAttribute(self, value: Any, which: int, device: int) -> int:
        value._obj.value = {75: 9, 76: 0, 13: 1_980_000, 36: 2_619_000}[which]
        return 0


def test_a_device_is_read_from_the_driver() -> None:
    assert gpu.read(Driver()) == (H100,)


def test_a_driver_that_does_not_start_or_has_no_device_gives_none() -> None:
    assert gpu.read(Driver(starts=False)) == ()
    assert gpu.read(Driver(devices=0)) == ()


def test_a_machine_without_the_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    gpu.probe.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu.probe() == ()
    gpu.probe.cache_clear()


def test_the_fingerprint_of_a_machine_tells_its_gpus_apart_and_is_as_before_without_one() -> None:
    plain = host.Host("linux", "x86_64", "a processor", ("avx2",), 8, 64 << 30)
    one, other = (replace(plain, gpus=(replace(H100, clock_mhz=clock),)) for clock in (1980, 1755))
    assert len({each.fingerprint() for each in (plain, one, other)}) == 3
    assert replace(plain, gpus=(replace(H100, memory_bytes=1),)).fingerprint() != plain.fingerprint()
    assert one.fingerprint() == replace(plain, gpus=(replace(H100, memory_bytes=1),)).fingerprint()


def test_the_cuda_of_torch_is_what_torch_says_of_itself() -> None:
    import torch

    gpu.cuda_of_torch.cache_clear()
    assert gpu.cuda_of_torch() == torch.version.cuda


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cuda: Optional[str] = '13.0'", "13.0"),
        ("cuda = '12.8'", "12.8"),
        ("cuda: Optional[str] = None", None),
    ],
)
def test_every_form_of_torchs_version_file_is_read(line: str, found: str | None) -> None:
    match = gpu.CUDA_OF_TORCH.search(f"debug = False\n{line}\nhip = None\n")
    assert (match[1] if match else None) == found


def test_where_torch_is_missing_there_is_no_cuda_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.cuda_of_torch.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gpu.cuda_of_torch() is None
    gpu.cuda_of_torch.cache_clear()
