"""Sets the sandbox up: `ingot setup arm-emulation`. Needs no root; packages are unpacked, never installed.

From Debian: qemu-user of this machine, and the arm64 packages of Python and the C++ library. From the package
index: the aarch64 wheels of executorch, numpy and onnxruntime. Built here: the plugin and the runner.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ...artifacts.errors import RequirementError, StageError
from .sandbox import LAYOUT, PROCESSORS, READY, SOURCES, directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CROSS = "aarch64-linux-gnu-g++"
# What apt, dpkg and compilers are called by, and the Debian package of each.
TOOLS: Mapping[str, str] = {
    "apt-get": "apt", "dpkg-deb": "dpkg", "cc": "gcc", CROSS: "g++-aarch64-linux-gnu",
}  # fmt: skip
ROOT_PACKAGES = ("python3.11", "libstdc++6")
HOST_PACKAGES = ("qemu-user", "libcapstone4", "liburing2")
PYTHON = "3.11"
PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux2014_aarch64",
)
LIBRARIES = (
    "executorch", "executorch_kernels_optimized", "executorch_backend_xnnpack",
    "executorch_kernels_quantized", "executorch_threadpool", "executorch_etdump",
)  # fmt: skip
# What these libraries have been tried with where the extra is not installed here.
EXECUTORCH, NUMPY, ONNXRUNTIME = "1.5.1", "2.4.6", "1.31.1"


def missing() -> tuple[str, ...]:
    """The Debian packages of the tools that are not here."""
    return tuple(package for tool, package in TOOLS.items() if shutil.which(tool) is None)


def wanted() -> dict[str, str]:
    """The versions of the wheels: those of this environment, so that both sides compute alike."""
    return {
        name: _version(name) or tried
        for name, tried in (("executorch", EXECUTORCH), ("numpy", NUMPY), ("onnxruntime", ONNXRUNTIME))
    }


def set_up(say: Callable[[str], None]) -> Path:
    """Makes the sandbox anew and says each step; its directory.

    Raises RequirementError for tools that are missing, with the command that installs them, and StageError
    with what a step said when it fails; then what was there before stays.
    """
    lacking = missing()
    if lacking:
        raise RequirementError(
            f"setting up the emulation needs the Debian packages {', '.join(lacking)}",
            fix=f"apt-get install {' '.join(lacking)}",
        )
    place = directory()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as scratch:
        made = Path(scratch) / "new"
        made.mkdir()
        versions = wanted()
        _debian(Path(scratch) / "apt-host", (), HOST_PACKAGES, made / "host", say)
        _debian(Path(scratch) / "apt-arm64", ("arm64",), ROOT_PACKAGES, made / "root", say)
        _wheels(made / "executorch", (f"executorch=={versions['executorch']}",), say)
        numbers = (f"numpy=={versions['numpy']}", f"onnxruntime=={versions['onnxruntime']}")
        _wheels(made / "onnxruntime", (*numbers, "flatbuffers", "packaging", "protobuf"), say)
        _build(made, say)
        for processor in PROCESSORS.values():
            root = made / "cpus" / processor.name
            (root / "proc").mkdir(parents=True)
            (root / "proc/cpuinfo").write_text(processor.cpuinfo(), encoding="ascii")
            for part in (made / "root").iterdir():
                (root / part.name).symlink_to(Path("../../root") / part.name)
        record = {"layout": LAYOUT, "versions": versions}
        (made / READY).write_text(json.dumps(record, indent=2), encoding="utf-8")
        if place.exists():
            place.rename(Path(scratch) / "old")
        made.rename(place)
    return place


def _debian(
    state: Path,
    foreign: Sequence[str],
    packages: Sequence[str],
    root: Path,
    say: Callable[[str], None],
) -> None:
    """Unpacks packages and what they depend on; apt keeps its state in ``state``, apart from the system's."""
    kind = f" for {foreign[0]}" if foreign else " for this machine"
    say(f"Debian packages{kind}: {', '.join(packages)}")
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    architecture = foreign[0] if foreign else _said(["dpkg", "--print-architecture"]).strip()
    options = {
        "APT::Architecture": architecture, "APT::Architectures": architecture,
        "Dir::State::Lists": state / "lists",
        "Dir::Cache::archives": state / "archives", "Dir::State::status": state / "status",
        "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": "", "APT::Sandbox::User": "root",
        "APT::Get::List-Cleanup": "0",
    }  # fmt: skip
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
    _said([*apt, "update"])
    if foreign:
        _said([*apt, "install", "-y", "--no-install-recommends", "--download-only", *packages])
        found = sorted((state / "archives").glob("*.deb"))
    else:
        # The libraries of this system are there; only what it lacks is fetched.
        where = state / "archives"
        _said([*apt, "download", *packages], cwd=where)
        found = sorted(where.glob("*.deb"))
    for package in found:
        _said(["dpkg-deb", "-x", str(package), str(root)])
    say(f"  {len(found)} packages unpacked")


def _wheels(target: Path, names: Sequence[str], say: Callable[[str], None]) -> None:
    say(f"aarch64 wheels: {', '.join(names)}")
    platforms = (part for name in PLATFORMS for part in ("--platform", name))
    interpreter = sys.executable if _version("pip") else "python3"
    _said(
        [
            interpreter, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
            "--no-compile", "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp",
            "--abi", "cp311", "--abi", "abi3", "--abi", "none", *platforms, "--target", str(target), *names,
        ]
    )  # fmt: skip


def _build(made: Path, say: Callable[[str], None]) -> None:
    say("the plugin that counts instructions, and the runner of ExecuTorch programs")
    _said(["cc", "-O2", "-shared", "-fPIC", "-o", str(made / "count.so"), str(SOURCES / "count.c")])
    wheel = made / "executorch/executorch"
    include = wheel / "include"
    _said(
        [CROSS, "-std=c++17", "-O2", "-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{include}",
         f"-I{include}/executorch/runtime/core/portable_type/c10", str(SOURCES / "runner.cpp"),
         "-o", str(made / "runner"), f"-L{wheel / 'lib'}", "-Wl,--no-as-needed",
         *(f"-l{name}" for name in LIBRARIES), "-Wl,--allow-shlib-undefined"]
    )  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _said(command: Sequence[str], cwd: Path | None = None) -> str:
    """What a command printed; raises StageError with its last words when it fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["nothing"]
        raise StageError(
            f"{Path(command[0]).name} failed: {said[-1][:300]}", fix="look at what it needs, and run again"
        )
    return done.stdout
