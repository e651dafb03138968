"""The programs of an artifact of kind `aoti`: its files, and how they are compiled for a device.

    weights.safetensors        every tensor, sorted by name: the first input of each program
    prefill.pt2 head.pt2 decode.pt2   programs of torch.export without weights, for any device
    compiled/TAG/*.pt2         the same as packages of AOTInductor, for the device and torch that TAG names

A package runs only with the torch and on the kind of device that it was compiled for, so it is compiled where
it runs: while exporting when the device is at hand, else by `ingot validate`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import RequirementError, StageError
from .. import gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WEIGHTS_FILE = "weights.safetensors"
PROGRAMS = (PREFILL, HEAD, DECODE) = ("prefill", "head", "decode")
COMPILED = "compiled"
# Rows that one call may have.
MOST_BATCH = 1024
CUDA, CPU = "cuda", "cpu"
ALIGNMENT = 64
# Sizes that compiling takes as typical; packages run with all others too.
EXAMPLE_BATCH, EXAMPLE_LENGTH = 2, 16
# For a GPU, code in C++ only checks inputs and launches kernels, and takes a compiler long to make fast.
LAUNCHING = {"aot_inductor.compile_wrapper_opt_level": "O0"}


def check_device(device: str) -> None:
    """Raises RequirementError when torch here does not run on ``device``, `cuda` or `cpu`."""
    if device == CUDA:
        for name, met, fix in cuda_needs():
            if not met:
                raise RequirementError(f"this machine lacks {name}", fix=fix)


def cuda_needs() -> tuple[tuple[str, bool, str], ...]:
    """What running on a GPU through torch takes: name, whether it is here, and what brings it."""
    found = gpu.cuda_of_torch() is not None
    return (
        ("a CUDA device", bool(gpu.probe()), "run it on a machine with an NVIDIA GPU and its driver"),
        ("a torch that is built for CUDA", found, "install torch from a CUDA index of download.pytorch.org"),
    )


def tag(device: str) -> str:
    """The name of what is compiled for this device and this torch, such as `torch-2.11.0-cuda-sm90`."""
    import torch

    version = re.sub(r"[^\w.]", "-", str(torch.__version__))
    if device == CUDA:
        major, minor = torch.cuda.get_device_capability()
        return f"torch-{version}-sm{major}{minor}"
    return f"torch-{version}-cpu-{sysconfig.get_platform()}-{_isa()}"


def _isa() -> str:
    """The vector instructions that code for a processor is compiled with, as torch names them."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability()).lower()


def is_compiled(path: Path, device: str) -> bool:
    """Whether the packages for this device are there."""
    return all((path / COMPILED / tag(device) / f"{name}.pt2").is_file() for name in PROGRAMS)


def load_weights(path: Path, device: str) -> list[Any]:
    """The tensors of the programs on ``device``, in the order in which they are taken."""
    from safetensors.torch import load_file

    tensors = load_file(path / WEIGHTS_FILE, device=device)
    # Compiled code reads many elements at once, from addresses that a file's layout need not give.
    return [
        tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()
        for _, tensor in sorted(tensors.items())
    ]


def load_program(path: Path, name: str, device: str) -> Any:
    """An exported program on ``device``."""
    import torch
    from torch.export.passes import move_to_device_pass

    program = torch.export.load(path / f"{name}.pt2")
    return move_to_device_pass(program, f"{CUDA}:0") if device == CUDA else program


def caches(about: Mapping[str, Any], batch: int, device: str) -> tuple[list[Any], list[Any]]:
    """Empty keys and values of a batch, a tensor [batch, kv_heads, context, head_dim] a layer each."""
    import torch

    shape = (batch, int(about["kv_heads"]), int(about["context"]), int(about["head_dim"]))
    dtype = getattr(torch, str(about["dtype"]))
    keys, values = (
        [torch.zeros(shape, dtype=dtype, device=device) for _ in range(int(about["layers"]))]
        for _ in range(2)
    )
    return keys, values


def example(about: Mapping[str, Any], name: str, weights: list[Any], device: str) -> tuple[Any, ...]:
    """Inputs of a program, of the sizes that it is traced and compiled with."""
    import torch

    batch, length = EXAMPLE_BATCH, min(EXAMPLE_LENGTH, int(about["context"]) - 1)
    if name == HEAD:
        return weights, torch.zeros(batch, length, int(about["hidden"]), device=device)
    keys, values = caches(about, batch, device)
    if name == PREFILL:
        return weights, keys, values, torch.zeros(batch, length, dtype=torch.int64, device=device)
    ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    return weights, keys, values, ids, torch.full((batch,), length, dtype=torch.int64, device=device)


def compile_packages(path: Path, about: Mapping[str, Any], device: str, into: Path) -> Path:
    """Compiles every program of ``path`` for ``device``; the new directory ``into``/TAG, whole or not at all.

    Raises RequirementError without the device, and StageError when the compiler fails.
    """
    check_device(device)
    place = into / tag(device)
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".compiling-") as made:
        # A process for each, since most of compiling is Python.
        module, said = f"{__package__}.compiling", json.dumps(dict(about))
        running = {
            name: subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(path), said, name, device, made],
                stdin=subprocess.DEVNULL,
            )
            for name in PROGRAMS
        }
        try:
            codes = {name: each.wait() for name, each in running.items()}
        finally:
            for each in running.values():
                each.kill()
        for name, code in codes.items():
            if code != 0:
                line = Path(made) / f"{name}.error"
                reason = line.read_text("utf-8") if line.is_file() else f"its process ended with {code}"
                raise StageError(
                    f"AOTInductor does not compile {name} for {device}: {reason}",
                    fix="a C++ compiler must be on the PATH, and for CUDA its headers beside torch; "
                    "or set engine: compile, which needs no package",
                )
        Path(made).chmod(0o755)
        if not place.exists():
            Path(made).rename(place)
            Path(made).mkdir()
    return place


def compile_program(path: Path, about: Mapping[str, Any], device: str, name: str, into: Path) -> None:
    """Compiles one program to ``into``/NAME.pt2; raises what the compiler does."""
    import torch

    program = load_program(path, name, device)
    program.example_inputs = (example(about, name, load_weights(path, device), device), {})
    with _toolchain(device), any_size(), kernels(about):
        torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - its documented name
            program,
            package_path=str(into / f"{name}.pt2"),
            inductor_configs=LAUNCHING if device == CUDA else None,
        )


@contextlib.contextmanager
def any_size() -> Iterator[None]:
    """Lets sizes that vary be 0 and 1 too, which tracing and compiling otherwise take for other programs."""
    from torch.fx.experimental import _config

    config: Any = _config
    with config.patch(backed_size_oblivious=True):
        yield


@contextlib.contextmanager
def kernels(about: Mapping[str, Any]) -> Iterator[None]:
    """Attention kernels and the precision of float32 products as the artifact asks for."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    names = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
    wanted = names.get(str(about["attention"]))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if about["tf32"] else "highest")
    try:
        with sdpa_kernel([wanted, SDPBackend.MATH]) if wanted else contextlib.nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _toolchain(device: str) -> Iterator[None]:
    """Shows the compiler CUDA's headers and libraries as pip installs them, where no toolkit is installed."""
    if device != CUDA or os.environ.get("CUDA_HOME"):
        yield
        return
    import torch

    site = Path(torch.__file__).parents[1]
    homes = [Path("/usr/local/cuda"), *sorted(site.glob("nvidia/cu[0-9]*"))]
    home = next((home for home in homes if (home / "include" / "cuda_runtime_api.h").is_file()), None)
    if home is None:
        yield
        return
    from torch.utils import cpp_extension

    with tempfile.TemporaryDirectory(prefix="ingot-cuda-") as links:
        # The linker asks for libcuda.so and libcudart.so; drivers and wheels bring them with a number.
        for stem, place in _numbered(home):
            (Path(links) / stem).symlink_to(place)
        ours = {
            "CUDA_HOME": str(home),
            "LIBRARY_PATH": _joined(links, os.environ.get("LIBRARY_PATH")),
            # cuda.h, where the runtime's headers come without it.
            "CPATH": _joined(*map(str, site.glob("triton/backends/nvidia/include")), os.environ.get("CPATH")),
        }
        before, kept = {name: os.environ.get(name) for name in ours}, cpp_extension.CUDA_HOME
        os.environ.update(ours)
        cpp_extension.CUDA_HOME = str(home)
        try:
            yield
        finally:
            cpp_extension.CUDA_HOME = kept
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _joined(*places: str | None) -> str:
    return os.pathsep.join(place for place in places if place)


def _numbered(home: Path) -> Iterator[tuple[str, Path]]:
    """Libraries by the name that the linker asks for, where they are."""
    places = [home / "lib", home / "lib64", Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64")]
    for stem in ("libcuda.so", "libcudart.so"):
        found = next((file for place in places for file in sorted(place.glob(f"{stem}.*"))), None)
        if found is not None:
            yield stem, found
