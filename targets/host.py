"""What this machine is, as far as building and measuring care: instruction sets, cores, memory, system."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..artifacts.digest import digest_json
from . import gpu
from .gpu import Gpu

# The instruction sets that choose another kernel in the runtimes we use: other speed and other last bits.
RELEVANT_ISA = frozenset({
    "avx2", "fma", "avx_vnni", "avx512f", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme", "neon",
})  # fmt: skip
INT8_DOT_PRODUCT = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Host:
    """A machine. system: `linux`, `darwin`, `windows`.  machine: `x86_64`, `aarch64`, `arm64`.

    isa: the relevant instruction sets, sorted.  cores: those this process may use.  memory_bytes: all that
    this process may use, by the machine and its control group.  gpus: of NVIDIA, in CUDA's order.
    """

    system: str
    machine: str
    processor: str
    isa: tuple[str, ...]
    cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()

    @property
    def has_int8_dot_product(self) -> bool:
        """Whether an instruction multiplies and sums 8-bit integers, which is what makes int8 fast."""
        return not INT8_DOT_PRODUCT.isdisjoint(self.isa)

    def facets(self) -> dict[str, object]:
        """What of this machine can change the last bits of floating-point results."""
        return {"machine": self.machine, "isa": list(self.isa)}

    def fingerprint(self) -> str:
        """A digest that equal machines share, for the keys of measured times; names and memory stay out, save
        the name of a GPU, which is what tells of its kind.
        """
        named = {"system": self.system, "processor": self.processor, "cores": self.cores}
        gpus = {"gpus": [gpu.facets() for gpu in self.gpus]} if self.gpus else {}
        return digest_json({**self.facets(), **named, **gpus})


@functools.cache
def probe() -> Host:
    """This machine; looked at once a process."""
    processor, flags = _processor()
    return Host(
        system=platform.system().lower(),
        machine=platform.machine(),
        processor=processor,
        isa=tuple(sorted(RELEVANT_ISA & flags)),
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        gpus=gpu.probe(),
    )


def physical_cores() -> int:
    """Cores that this process may use, hardware threads of one core counted once."""
    import psutil

    return min(psutil.cpu_count(logical=False) or probe().cores, probe().cores)


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Processor name and feature flags from the text of Linux's `/proc/cpuinfo` (x86 and ARM wordings)."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    part = fields.get("cpu part")
    arm = f"ARM {fields.get('cpu implementer', '?')}:{part}" if part else "unknown"
    name = fields.get("model name") or arm
    flags = fields.get("flags") or fields.get("features") or ""
    return name, frozenset(flags.split())


def parse_quota(text: str) -> float | None:
    """Cores from the text of cgroup v2's `cpu.max` (quota and period in microseconds); None if unlimited."""
    quota, _, period = text.strip().partition(" ")
    return None if quota == "max" or not period else int(quota) / int(period)


def _processor() -> tuple[str, frozenset[str]]:
    if sys.platform == "darwin":
        # Apple's cores have the dot product since the first M1; sysctl names the features one by one.
        names = {"hw.optional.arm.FEAT_DotProd": "asimddp", "hw.optional.arm.FEAT_I8MM": "i8mm"}
        brand, *values = _sysctl("machdep.cpu.brand_string", *names)
        flags = {flag for flag, value in zip(names.values(), values, strict=True) if value == "1"}
        return brand or "unknown", frozenset({"neon", *flags} if platform.machine() == "arm64" else flags)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        return parse_cpuinfo(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    return platform.processor() or "unknown", frozenset()


def _sysctl(*names: str) -> list[str]:
    done = [
        subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False)
        for name in names
    ]
    return [result.stdout.strip() for result in done]


def _cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota_file = _CGROUP / "cpu.max"
    quota = parse_quota(quota_file.read_text()) if quota_file.exists() else None
    return max(1, min(allowed, int(quota))) if quota else allowed


def _memory_bytes() -> int:
    """The machine's memory, or the control group's limit where that is smaller (cgroup v2, then v1)."""
    if hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        import psutil

        total = psutil.virtual_memory().total
    for limit_file in (_CGROUP / "memory.max", _CGROUP / "memory" / "memory.limit_in_bytes"):
        if limit_file.exists() and (limit := limit_file.read_text().strip()) != "max":
            total = min(total, int(limit))
    return int(total)
