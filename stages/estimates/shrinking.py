"""What pruning, factoring and dropping layers take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base import Estimate
from .figures import FLOAT32, MB, TORCH_BYTES, TORCH_SECONDS
from .rounding import calibrated

if TYPE_CHECKING:
    from ..base import Work


def magnitude(_params: Any, work: Work) -> Estimate:
    """`prune.magnitude` and `share.layers`: one pass over the weights, each sorted, counted or added."""
    return Estimate(
        TORCH_SECONDS + 3e-8 * work.parameters,
        TORCH_BYTES + FLOAT32 * work.parameters // 4,
        work.input_bytes,
        mapped_bytes=work.input_bytes // 2,
    )


def pruned(params: Any, work: Work) -> Estimate:
    """`prune.wanda` and `prune.sparsegpt`: what calibrating takes, and a checkpoint as large as before."""
    return replace(calibrated(params, work), output_bytes=work.input_bytes)


def structured(params: Any, work: Work) -> Estimate:
    """`prune.structured`: the text through the network as often as it is looked at, and what is left."""
    # Fitting takes two networks along and products of inputs, and scores channels on the way.
    scored = {"activation": not params.refit, "taylor": 6}.get(params.scoring, 0)
    looks = 0 if params.calibration is None else scored + (params.layers is not None) + 3 * params.refit
    if params.calibration is not None and params.refit and params.ffn is not None:
        # Features that stay go forth and back, and are one part of the network.
        looks += 0.6 * (2 if params.feature_epochs is None else params.feature_epochs)
    seconds = 5e-11 * looks * work.parameters * params.samples * params.window
    once = pruned(params, work)
    tokens = 0 if params.calibration is None else params.samples * params.window
    # Measured from 64 to 256 windows of an 8M model: the states of two networks, and what feed-forwards give.
    held = int((13 if params.refit else 8) * FLOAT32 * tokens * (work.parameters / 100) ** 0.5)
    kept = min(held, params.activation_budget_mb * MB)
    return replace(
        once,
        cpu_seconds=TORCH_SECONDS + seconds + 5e-9 * work.parameters,
        memory_bytes=TORCH_BYTES + kept + FLOAT32 * work.parameters // 4,
        mapped_bytes=once.mapped_bytes + held - kept,
    )


def dropped(params: Any, work: Work) -> Estimate:
    """`prune.layers`: the text through the network once, where influence is measured."""
    tokens = 0 if params.calibration is None else params.samples * params.window
    once = pruned(params, work)
    return replace(once, cpu_seconds=TORCH_SECONDS + 5e-11 * work.parameters * tokens)


def factor(params: Any, work: Work) -> Estimate:
    """`factor.svd`: singular values of every weight, once more where they decide on ranks."""
    passes = 1 if params.energy is None and params.budget is None else 2
    return Estimate(
        TORCH_SECONDS + passes * _singular_seconds(work),
        TORCH_BYTES + 4 * FLOAT32 * work.parameters // 4,
        work.input_bytes,
        mapped_bytes=work.input_bytes // 2,
    )


def factor_aware(params: Any, work: Work) -> Estimate:
    """`factor.svd_llm`: what calibrating takes, once more for a budget, and singular values."""
    walked = calibrated(params, work)
    passes = 1 if params.budget is None else 2
    seconds = passes * (walked.cpu_seconds + _singular_seconds(work))
    return replace(walked, cpu_seconds=seconds, output_bytes=work.input_bytes)


def _singular_seconds(work: Work) -> float:
    """Of all weights: they grow as a weight's parameters times its width, which is about √(P / 100)."""
    width: float = (work.parameters / 100) ** 0.5
    return 6e-10 * work.parameters * width
