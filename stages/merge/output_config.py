"""The config.json of a merge: that of the base, or of the first model, with what the merge changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.depth import relayered, stack_layers
from ..model.dtypes import main_dtype, with_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..model.families import Layer
    from .models import Model
    from .resolve import Plan

TIED_KEY = "tie_word_embeddings"


def output_config(donor: Model, models: Mapping[str, Model], plan: Plan) -> dict[str, object]:
    """The config of what ``plan`` makes: layers, dtype, and whether the head is the embedding.

    Raises InputError where layers are put together whose settings the config cannot tell apart.
    """
    config = dict(donor.checkpoint.config)
    if TIED_KEY in config or plan.is_tied != donor.checkpoint.outline.tied:
        config[TIED_KEY] = plan.is_tied
    config = with_dtype(config, main_dtype(task.output for task in plan.tasks))
    for stack, sources in plan.layers.items():
        if sources != tuple((donor.name, layer) for layer in range(_count(donor, stack))):
            config = _relayered(config, donor, models, stack, sources)
    return config


def _count(model: Model, stack: str) -> int:
    return len(model.layout.stacks[stack].layers)


def _relayered(
    config: Mapping[str, object],
    donor: Model,
    models: Mapping[str, Model],
    stack: str,
    sources: Sequence[tuple[str, int]],
) -> dict[str, object]:
    """The config with the number of layers, and what it says of each."""

    def said(source: tuple[str, int], key: str) -> object:
        name, layer = source
        return _of_layer(models[name], key, layer, donor)

    def layer_of(source: tuple[str, int]) -> Layer:
        name, layer = source
        return stack_layers(models[name].checkpoint.architecture, stack)[layer]

    is_known = donor.checkpoint.outline.is_known
    count = _count(donor, stack)
    return relayered(config, stack, count, sources, said, layer_of if is_known else None, donor.refuse)


def _of_layer(model: Model, key: str, layer: int, donor: Model) -> object:
    """What a model's config says of a layer under ``key``, where the donor's says something of each."""
    said = model.checkpoint.config.get(key)
    if not isinstance(said, list) or layer >= len(said):
        raise donor.refuse(f"says {key} of its layers, which another model does not", "use its layers alone")
    return said[layer]
