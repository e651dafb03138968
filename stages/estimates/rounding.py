"""What quantizing takes, with a walk over calibration text or without."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base import Estimate
from .figures import CODES, FLOAT32, MB, PROCESS_BYTES, PROCESS_SECONDS, SIDECARS, TORCH_BYTES, TORCH_SECONDS

if TYPE_CHECKING:
    from ..base import Work


def rounding(params: Any, work: Work) -> Estimate:
    """`quantize.rtn` and `quantize.dynamic`: tensor by tensor; a search of scales tries many of them."""
    searches = getattr(params, "scale_search", "minmax") == "mse"
    return Estimate(
        PROCESS_SECONDS + (5.1e-8 if searches else 9e-9) * work.parameters,
        PROCESS_BYTES + work.input_bytes // 2,
        int(CODES * work.parameters) + SIDECARS,
        mapped_bytes=work.input_bytes // 2,
    )


def calibrated(params: Any, work: Work) -> Estimate:
    """`quantize.gptq` and `quantize.awq`: the text through the network once, with XᵀX of every input.

    Of a usual block these products take two thirds of what the maps do; correcting for earlier errors takes a
    second network. What is chosen for each weight does not depend on the text.
    """
    tokens = params.samples * params.window
    passes = 2 if getattr(params, "corrects", getattr(params, "error_correction", False)) else 1
    seconds = 7.5e-11 * passes * work.parameters * tokens + 1.2e-6 * work.parameters
    # Of the blocks' width little is known; a model of P parameters is about √(P / 100) wide.
    activations = int(4 * FLOAT32 * passes * tokens * (work.parameters / 100) ** 0.5)
    return Estimate(
        TORCH_SECONDS + seconds,
        TORCH_BYTES + min(activations, params.activation_budget_mb * MB) + FLOAT32 * work.parameters // 4,
        int(CODES * work.parameters) + SIDECARS,
        mapped_bytes=work.input_bytes // 2,
        parallel=work.cores,
    )


def grids(params: Any, work: Work) -> Estimate:
    """`quantize.static`: the text through the network once, with histograms of every input and products of a
    sample; `quantize.smoothquant` takes a plain pass before, or alone.
    """
    tokens = params.samples * params.window
    plain, observed = 5e-11, 1.4e-10
    smooth = {"dynamic": plain, "static": plain + observed}.get(getattr(params, "activation", ""), observed)
    activations = int(4 * FLOAT32 * tokens * (work.parameters / 100) ** 0.5)
    return Estimate(
        TORCH_SECONDS + smooth * work.parameters * tokens,
        TORCH_BYTES + min(activations, params.activation_budget_mb * MB) + FLOAT32 * work.parameters // 4,
        int(CODES * work.parameters) + SIDECARS,
        mapped_bytes=work.input_bytes // 2,
        parallel=work.cores,
    )


def mixed(params: Any, work: Work) -> Estimate:
    """`quantize.mixed`: `quantize.gptq`, after some of the text went forward twice and back once more."""
    rounded = calibrated(params, work)
    tokens = params.sensitivity_samples * params.window
    seconds = 5e-10 * work.parameters * tokens + 2e-6 * work.parameters
    return replace(rounded, cpu_seconds=rounded.cpu_seconds + seconds)


def rotate(params: Any, work: Work) -> Estimate:
    """`fuse.rotate`: a handful of passes over blocks of every tensor in float64, one tensor in memory."""
    stored = FLOAT32 if params.dtype == "float32" else FLOAT32 // 2
    return Estimate(
        PROCESS_SECONDS + 2.5e-7 * work.parameters,
        PROCESS_BYTES + FLOAT32 * work.parameters // 2,
        stored * work.parameters + SIDECARS,
        parallel=work.cores,
    )


def foreign(params: Any, work: Work) -> Estimate:
    """Another library's quantizer: the whole model in torch; AWQ runs each block for every scale it tries."""
    seconds = {"gptq": 8e-11, "awq": 6.2e-10, "rtn": 0.0}[params.algorithm]
    return Estimate(
        2 * TORCH_SECONDS + (seconds * params.samples * params.window + 1e-7) * work.parameters,
        2 * TORCH_BYTES + 2 * FLOAT32 * work.parameters,
        int(CODES * work.parameters) + SIDECARS,
        parallel=work.cores,
    )
