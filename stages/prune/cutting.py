"""A checkpoint without some layers or channels: a view of what is stored, and the config that it has then."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from ...artifacts.errors import InputError, RecipeError
from ..model.channels import is_multi_query, kept_places, keys_of
from ..model.depth import relayered, stack_layers
from ..model.layout import layout_of
from ..model.thinned import Take, ThinnedSource
from ..model.weights import check_tensors, network_tensors

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
# What configs call the number of experts, the first that is there.
EXPERTS = ("num_experts", "num_local_experts")


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
    source: Checkpoint,
    chosen: Sequence[tuple[Group, Collection[int]]],
    changed: Changed | None = None,
    factors: Mapping[str, float] | None = None,
) -> Checkpoint:
    """The checkpoint with the ``chosen`` channels of each group.

    changed: weights that are other ones now, float32 in their new shapes.  factors: what norms' gains and
    embeddings are multiplied by, by tensor.
    """
    tensors, model = source.tensors, source.architecture
    places = kept_places(chosen, lambda name: tensors.info(name).shape)
    stored = _renamed(chosen)
    copies = _copies(source) if any(group.kind == "hidden" for group, _ in chosen) else frozenset()
    offset = 1.0 if model.norm == "rms_above_one" else 0.0
    embeddings = frozenset(model.embeddings)
    takes = {}
    for name in tensors.names():
        origin = stored.get(name, name)
        if origin is not None and name not in copies:
            factor = (factors or {}).get(name, 1.0)
            takes[name] = Take(origin, places.get(origin, {}), factor, 0.0 if name in embeddings else offset)
    config = resized(source, [(group, len(channels)) for group, channels in chosen])
    return _checked(replace(source, config=config, tensors=ThinnedSource(tensors, takes, changed)))


def resized(source: Checkpoint, counts: Sequence[tuple[Group, int]]) -> dict[str, object]:
    """The config with so many channels in each group; raises RecipeError for what it cannot say."""
    model, config, keys = source.architecture, dict(source.config), keys_of(source.architecture)
    for group, count in counts:
        match group.kind:
            case "ffn":
                config[group.key] = count
            case "experts":
                config[next(key for key in EXPERTS if key in config)] = count
            case "hidden":
                config[group.key] = count
                config[keys.head_dim] = model.head_dim
            case "heads":
                per = 1 if is_multi_query(model) else model.heads // model.kv_heads
                config[group.key] = count * per
                config[keys.head_dim] = model.head_dim
                if config.get(keys.kv_heads) is not None and not is_multi_query(model):
                    config[keys.kv_heads] = count
    for kind in ("heads", "hidden"):
        if any(group.kind == kind for group, _ in counts):
            _require_heads(replace(source, config=config), model, kind)
    return config


def hidden_multiple(model: Architecture, multiple: int) -> int:
    """What the width of the state is rounded to, so that transformers takes it."""
    return math.lcm(multiple, model.heads) if model.model_type in DIVIDED else multiple


def _require_heads(made: Checkpoint, before: Architecture, kind: str) -> None:
    """Raises RecipeError where heads would be wider or narrower by the config, or transformers refuses it."""
    try:
        after = made.architecture
    except InputError:
        after = None
    if after is None or after.head_dim != before.head_dim:
        raise RecipeError(
            f"prune.{kind}: {before.model_type} has no head_dim in its config, so that heads are hidden / "
            f"heads wide, and could not stay {before.head_dim} wide",
            fix="prune ffn or layers of this model",
        )
    if before.model_type in DIVIDED and after.hidden % after.heads:
        able = [str(n) for n in range(1, before.heads) if after.hidden % n == 0]
        raise RecipeError(
            f"prune.{kind}: it would have {after.heads} heads, and transformers refuses a "
            f"{before.model_type} whose hidden size, {after.hidden}, is no multiple of its heads",
            fix=f"leave {', '.join(able)} of them",
        )


def _renamed(chosen: Sequence[tuple[Group, Collection[int]]]) -> dict[str, str | None]:
    """Of tensors that change places: name → what is stored there now; None where nothing is."""
    found: dict[str, str | None] = {}
    for group, channels in chosen:
        found |= dict.fromkeys(name for names in group.members for name in names)
        for place, channel in enumerate(channels if group.members else ()):
            found |= dict(zip(group.members[place], group.members[channel], strict=True))
    return found


def _copies(source: Checkpoint) -> frozenset[str]:
    """Tensors that are the token embedding once more, of which transformers needs none."""
    model, used, tensors = source.architecture, set(network_tensors(source)), source.tensors
    shape = tensors.info(model.embedding).shape
    unused = (name for name in tensors.names() if name not in used)
    return frozenset(name for name in unused if tensors.info(name).shape == shape)


def _checked(made: Checkpoint) -> Checkpoint:
    """The checkpoint; raises IntakeError where its config does not describe its tensors."""
    check_tensors(made.tensors, made.architecture, str(made.directory))
    return made
