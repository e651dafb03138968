"""The host probe: what it reads, and what a fingerprint does and does not hold."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
from ingot.targets import host

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480C
flags\t\t: fpu sse2 avx2 fma avx512f avx512vl avx512_vnni amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8480C
flags\t\t: fpu sse2
"""
ARM = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes asimddp sve i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""

HOST = host.Host("linux", "x86_64", "some processor", ("avx2", "avx512_vnni"), 8, 16 << 30)


def test_x86_flags_and_name_are_read_from_cpuinfo() -> None:
    name, flags = host.parse_cpuinfo(X86)
    assert name == "Intel(R) Xeon(R) Platinum 8480C"
    assert {"avx512_vnni", "amx_int8"} <= flags


def test_arm_features_and_part_are_read_from_cpuinfo() -> None:
    name, flags = host.parse_cpuinfo(ARM)
    assert name == "ARM 0x41:0xd40"
    assert {"asimddp", "i8mm", "sve"} <= flags


def test_cpuinfo_without_what_we_look_for_gives_an_unknown_processor() -> None:
    assert host.parse_cpuinfo("") == ("unknown", frozenset())


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("400000 100000", 4.0)]
)
def test_a_quota_is_a_number_of_cores(text: str, cores: float | None) -> None:
    assert host.parse_quota(text) == cores


@pytest.mark.parametrize(
    ("isa", "fast"),
    [
        ((), False),
        (("avx2", "avx512f"), False),
        (("avx512_vnni",), True),
        (("avx_vnni",), True),
        (("asimddp",), True),
    ],
)
def test_int8_is_fast_where_an_instruction_multiplies_and_sums_bytes(
    isa: tuple[str, ...], fast: bool
) -> None:
    assert dataclasses.replace(HOST, isa=isa).has_int8_dot_product is fast


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "another"},
        {"isa": ("avx2",)},
        {"cores": 4},
        {"machine": "aarch64"},
        {"system": "darwin"},
    ],
)
def test_the_fingerprint_changes_with_what_changes_speed(change: dict[str, object]) -> None:
    assert dataclasses.replace(HOST, **change).fingerprint() != HOST.fingerprint()  # type: ignore[arg-type]


def test_the_fingerprint_does_not_change_with_the_size_of_memory() -> None:
    assert dataclasses.replace(HOST, memory_bytes=1).fingerprint() == HOST.fingerprint()


def test_facets_hold_neither_cores_nor_the_processors_name() -> None:
    changed = dataclasses.replace(HOST, cores=1, processor="another", memory_bytes=1, system="darwin")
    assert changed.facets() == HOST.facets()


def test_this_machine_is_probed_as_the_system_reports_it() -> None:
    psutil = pytest.importorskip("psutil")
    found = host.probe()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 0 < found.memory_bytes <= psutil.virtual_memory().total
    assert set(found.isa) <= host.RELEVANT_ISA


def test_probing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ingot.targets.host import probe; probe();"
        "assert not {'torch', 'numpy', 'psutil', 'onnxruntime'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
