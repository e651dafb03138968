"""The config.json of a merge: that of the base, or of the first model, with what the merge changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from ..model.checkpoint import CONFIG_FILE
from ..model.dtypes import main_dtype, with_dtype
from ..model.families import architecture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .models import Model
    from .resolve import Plan

TIED_KEY = "tie_word_embeddings"
LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# Which of an encoder-decoder's stacks each of these counts; `num_layers` alone counts both of T5's.
STACK_KEYS: Mapping[str, tuple[str, ...]] = {
    "encoder": ("encoder_layers", "num_layers", *LAYER_KEYS),
    "decoder": ("decoder_layers", "num_decoder_layers", *LAYER_KEYS),
}
# Indices of layers, whose meaning moves with the layers.
INDEX_LISTS = ("mlp_only_layers", "no_rope_layers", "max_window_layers", "global_attn_every_n_layers")


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
            _relayer(config, donor, models, stack, sources)
    return config


def _count(model: Model, stack: str) -> int:
    return len(model.layout.stacks[stack].layers)


def _relayer(
    config: dict[str, object],
    donor: Model,
    models: Mapping[str, Model],
    stack: str,
    sources: Sequence[tuple[str, int]],
) -> None:
    """Sets the number of layers, and what the config says of each."""
    before = _count(donor, stack)
    keys = [key for key in STACK_KEYS.get(stack, LAYER_KEYS) if config.get(key) == before]
    if not keys:
        what = f"has {before} layers, but no key of its config says so"
        raise donor.refuse(what, "keep the number and the order of its layers")
    config[keys[0]] = len(sources)
    for key, value in donor.checkpoint.config.items():
        if isinstance(value, list) and len(value) == before and not _is_of_no_layer(key):
            config[key] = [_of_layer(models[name], key, layer, donor) for name, layer in sources]
    for key in INDEX_LISTS:
        if config.get(key):
            what = f"tells its layers apart by {key}, which cannot follow them to other places"
            raise donor.refuse(what, "keep the order of its layers")
    _check_windows(config, donor, models, sources)


def _is_of_no_layer(key: str) -> bool:
    """Whether a list is of something else than layers, however long it is."""
    return key == "architectures" or "token_id" in key


def _of_layer(model: Model, key: str, layer: int, donor: Model) -> object:
    """What a model's config says of a layer under ``key``, where the donor's says something of each."""
    said = model.checkpoint.config.get(key)
    if not isinstance(said, list) or layer >= len(said):
        raise donor.refuse(f"says {key} of its layers, which another model does not", "use its layers alone")
    return said[layer]


def _check_windows(
    config: Mapping[str, object],
    donor: Model,
    models: Mapping[str, Model],
    sources: Sequence[tuple[str, int]],
) -> None:
    """Raises InputError where a layer would see another span of the text than it did in its own model."""
    if not donor.checkpoint.outline.is_known:
        return
    made = architecture(config, CONFIG_FILE)
    if len(made.layers) != len(sources):
        return
    for layer, (name, index) in zip(made.layers, sources, strict=True):
        before = models[name].checkpoint.architecture.layers[index].attention.window
        if layer.attention.window != before:
            raise InputError(
                f"layer {layer.index} would see a window of {layer.attention.window or 'all'} positions, "
                f"but it saw {before or 'all'} as layer {index} of {models[name].title}",
                fix="cut slices so that layers keep their turn in the pattern of windows",
            )
