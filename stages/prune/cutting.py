"""A checkpoint without some layers or channels: a view of what is stored, and the config that it has then."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from ...artifacts.errors import InputError, RecipeError
from ..model.channels import is_multi_query, kept_places, keys_of
from ..model.depth import relayered, stack_layers
from ..model.layout import layout_of
from ..model.thinned import Take, ThinnedSource
from ..model.weights import check_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ..model.channels import Group
    from ..model.checkpoint import Checkpoint
    from ..model.families import Architecture

    Changed = Mapping[str, Callable[[], npt.NDArray[np.float32]]]

# Whose configs transformers refuses where heads do not divide the hidden size, though it need not be theirs.
DIVIDED = frozenset({"llama", "gemma2", "gemma3_text"})


def without_layers(source: Checkpoint, kept: Sequence[int]) -> Checkpoint:
    """The checkpoint with the ``kept`` layers of its only stack, in their order, counted anew.

    Raises InputError where the config cannot say so.
    """
    names, model = source.tensors.names(), source.architecture
    ((stack, found),) = layout_of(names, model, model.lm_head).stacks.items()
    layers = stack_layers(model, stack)
    inside = {found.tensor(index, place) for index in range(len(layers)) for place in found.layers[index]}
    takes = {name: Take(name) for name in names if name not in inside}
    for index, layer in enumerate(kept):
        for place in found.layers[layer]:
            takes[found.tensor(index, place)] = Take(found.tensor(layer, place))
    config = relayered(
        source.config, stack, len(layers), kept,
        lambda layer, key: cast("list[object]", source.config[key])[layer], layers.__getitem__,
        lambda what, fix: InputError(f"{model.model_type}: it {what}", fix=fix),
    )  # fmt: skip
    return _checked(replace(source, config=config, tensors=ThinnedSource(source.tensors, takes)))


def narrowed(
    source: Checkpoint, chosen: Sequence[tuple[Group, Collection[int]]], changed: Changed | None = None
) -> Checkpoint:
    """The checkpoint with the ``chosen`` channels of each group.

    changed: weights that are other ones now, float32 in their new shapes.
    """
    places = kept_places(chosen, lambda name: source.tensors.info(name).shape)
    takes = {name: Take(name, places.get(name, {})) for name in source.tensors.names()}
    config = resized(source, [(group, len(channels)) for group, channels in chosen])
    return _checked(replace(source, config=config, tensors=ThinnedSource(source.tensors, takes, changed)))


def resized(source: Checkpoint, counts: Sequence[tuple[Group, int]]) -> dict[str, object]:
    """The config with so many channels in each group; raises RecipeError for what it cannot say."""
    model, config = source.architecture, dict(source.config)
    for group, count in counts:
        if group.kind == "ffn":
            config[group.key] = count
            continue
        per = 1 if is_multi_query(model) else model.heads // model.kv_heads
        config[group.key] = count * per
        keys = keys_of(model)
        config[keys.head_dim] = model.head_dim
        if config.get(keys.kv_heads) is not None and not is_multi_query(model):
            config[keys.kv_heads] = count
    if any(group.kind == "heads" for group, _ in counts):
        _require_heads(replace(source, config=config), model)
    return config


def _require_heads(made: Checkpoint, before: Architecture) -> None:
    """Raises RecipeError where fewer heads would be wider ones by the config, or transformers refuses it."""
    try:
        after = made.architecture
    except InputError:
        after = None
    if after is None or after.head_dim != before.head_dim:
        raise RecipeError(
            f"prune.heads: {before.model_type} has no head_dim in its config, so that heads are hidden / "
            f"heads wide: with fewer of them they could not stay {before.head_dim} wide",
            fix="prune ffn or layers of this model",
        )
    if before.model_type in DIVIDED and after.hidden % after.heads:
        able = [str(n) for n in range(1, before.heads) if before.hidden % n == 0]
        raise RecipeError(
            f"prune.heads: it would have {after.heads} heads, and transformers refuses a {before.model_type} "
            f"whose hidden size, {after.hidden}, is no multiple of its heads",
            fix=f"leave {', '.join(able)} of them",
        )


def _checked(made: Checkpoint) -> Checkpoint:
    """The checkpoint; raises IntakeError where its config does not describe its tensors."""
    check_tensors(made.tensors, made.architecture, str(made.directory))
    return made
