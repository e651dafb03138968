"""The environment of a worker: what is let through from ours, and what is set the same for every one.

An allow-list, so that a secret or a stray variable of the person's shell can neither leak into a stage (and
its log) nor change what it makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where programs, homes, caches, libraries and devices are; none of it changes what a stage computes.
ALLOWED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SHELL",
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX",
    "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX",
    "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_XET_CACHE",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "CC", "CXX", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
})  # fmt: skip
ALLOWED_PREFIXES = ("LC_", "INGOT_")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip

FIXED = {
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    # Sources are fetched while planning, pinned to a revision: no stage has business with a network.
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


def child_environment(ours: Mapping[str, str], *, threads: int) -> dict[str, str]:
    """The whole environment of a worker that may start ``threads`` threads."""
    passed = {
        name: value for name, value in ours.items() if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)
    }
    return {**passed, **FIXED, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
