"""What a config.json says of its layers, once some of them are left out, come twice or stand elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ...artifacts.errors import InputError
from .families import Architecture, Mixture, architecture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .families import Layer

S = TypeVar("S")

ENCODER = "encoder"
LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# Which of an encoder-decoder's stacks each of these counts; `num_layers` alone counts both of T5's.
STACK_KEYS: Mapping[str, tuple[str, ...]] = {
    ENCODER: ("encoder_layers", "num_layers", *LAYER_KEYS),
    "decoder": ("decoder_layers", "num_decoder_layers", *LAYER_KEYS),
}
# Numbers of layers, whose meaning moves with the layers.
INDICES = ("no_rope_layers", "global_attn_every_n_layers")
# Layers without experts, and every how many layers the others have them.
DENSE_LAYERS, SPARSE_STEP = "mlp_only_layers", "decoder_sparse_step"


def relayered(
    config: Mapping[str, object],
    stack: str,
    before: int,
    sources: Sequence[S],
    said: Callable[[S, str], object],
    layer_of: Callable[[S], Layer] | None,
    refuse: Callable[[str, str], InputError],
) -> dict[str, object]:
    """The config of a network whose ``stack`` of ``before`` layers consists of ``sources`` now.

    sources: for every place the layer that stands there.  said: what the config of a source says of it under
    a key that has an entry for each layer.  layer_of: the layer itself, where its family is known.  refuse:
    the error for what cannot be said, and what to do.  Raises that, and InputError where a layer would see
    another span of the text than it did.
    """
    keys = [key for key in STACK_KEYS.get(stack, LAYER_KEYS) if config.get(key) == before]
    if not keys:
        what = f"has {before} layers, but no key of its config says so"
        raise refuse(what, "keep the number and the order of its layers")
    made = {**config, keys[0]: len(sources)}
    for key, value in config.items():
        if isinstance(value, list) and len(value) == before and not _is_of_no_layer(key):
            made[key] = [said(source, key) for source in sources]
    for key in _numbers(made, layer_of is not None):
        if made.get(key):
            what = f"tells its layers apart by {key}, which cannot follow them to other places"
            raise refuse(what, "keep the order of its layers")
    if layer_of is not None:
        layers = [layer_of(source) for source in sources]
        if DENSE_LAYERS in made or SPARSE_STEP in made:
            made[DENSE_LAYERS] = [
                place for place, layer in enumerate(layers) if not isinstance(layer.feed_forward, Mixture)
            ]
            made[SPARSE_STEP] = 1
        _check_windows(made, stack, layers)
    return made


def stack_layers(model: Architecture, stack: str) -> tuple[Layer, ...]:
    """The layers of one of a network's stacks."""
    return model.encoder.layers if stack == ENCODER and model.encoder else model.layers


def _is_of_no_layer(key: str) -> bool:
    """Whether a list is of something else than layers, however long it is."""
    return key == "architectures" or "token_id" in key or key == DENSE_LAYERS


def _numbers(config: Mapping[str, object], is_known: bool) -> tuple[str, ...]:
    """The keys of numbers of layers that count in this config."""
    says_windows = config.get("layer_types") or config.get("use_sliding_window") is False
    return (
        *INDICES, *(() if says_windows else ("max_window_layers",)), *(() if is_known else (DENSE_LAYERS,)),
    )  # fmt: skip


def _check_windows(config: Mapping[str, object], stack: str, sources: Sequence[Layer]) -> None:
    """Raises InputError where a layer would see another span of the text than it did in its own place."""
    made = stack_layers(architecture(config, "config.json"), stack)
    if len(made) != len(sources):
        return
    for layer, source in zip(made, sources, strict=True):
        if layer.attention.window != source.attention.window:
            raise InputError(
                f"layer {layer.index} would see a window of {layer.attention.window or 'all'} positions, "
                f"but it saw {source.attention.window or 'all'} as layer {source.index}",
                fix="choose layers so that they keep their turn in the pattern of windows",
            )
