"""Which layers go: those of the least influence, and what is said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...artifacts.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..base import Context
    from ..model.checkpoint import Checkpoint
    from ..model.families import Architecture


def require_stack(label: str, model: Architecture) -> None:
    """Raises RecipeError for a network whose layers are not one stack."""
    if model.encoder is not None:
        raise RecipeError(
            f"{label}: {model.model_type} has the layers of an encoder and of a decoder, and every layer of "
            "the decoder reads what the last of the encoder gives",
            fix="prune the widths of this model: ffn, heads",
        )


def influence_of(context: Context[Any], source: Checkpoint) -> list[float]:
    """The block influence of every layer on the calibration text."""
    from ..model.calibration.calibrate import calibration_text, choose_device, choose_dtype, shelf_of
    from ..model.calibration.influence import block_influence

    params = context.params
    device = choose_device(params.device)
    samples = calibration_text(context, source)
    return block_influence(
        source.architecture, source.tensors, samples.batches, shelf_of(params, context.job), device,
        choose_dtype(params.compute_dtype, device), context.threads, context.progress,
    )  # fmt: skip


def least_influential(influence: Sequence[float], count: int, keep: Collection[int] = ()) -> list[int]:
    """The ``count`` layers of the least influence, in their order; of equal ones, the later. keep: stay."""
    free = [layer for layer in range(len(influence)) if layer not in keep]
    return sorted(sorted(free, key=lambda layer: (influence[layer], -layer))[:count])


def told(influence: Sequence[float], dropped: Collection[int]) -> dict[str, object]:
    """What an action record says of the layers, in the order of the source; nothing unless measured."""
    if not influence:
        return {}
    return {
        "influence": [
            {"layer": layer, "influence": value, "dropped": layer in dropped}
            for layer, value in enumerate(influence)
        ]
    }
