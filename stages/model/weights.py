"""Whether the stored tensors are those that the architecture computes with: names, shapes and dtypes."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError
from .dtypes import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...artifacts.tensors import TensorSource
    from .checkpoint import Checkpoint
    from .families import Architecture, Linear, Norm

    Shape = tuple[int | None, ...]

NAMED_IN_ERRORS = 3
_OTHER_MODEL = "check that config.json and the weights are of the same model"


def expected_tensors(model: Architecture) -> dict[str, Shape]:
    """The tensors that a network is made of, with their shapes; None where any length will do."""
    return dict(_tensors(model))


def network_tensors(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The names of the tensors that a network is made of; of one outside the table, all in floating point."""
    if checkpoint.outline.is_known:
        return tuple(expected_tensors(checkpoint.architecture))
    tensors = checkpoint.tensors
    return tuple(name for name in tensors.names() if tensors.info(name).dtype in NAMES)


def check_weights(checkpoint: Checkpoint, where: str) -> None:
    """Raises IntakeError when the weights cannot be those of the config, as far as headers tell.

    Of a network outside the table nothing is known of its tensors but that some must be floating-point:
    whether they fit is seen when it is exported.
    """
    if checkpoint.outline.is_known:
        check_tensors(checkpoint.tensors, checkpoint.architecture, where)
    elif not network_tensors(checkpoint):
        raise IntakeError("no tensor is floating-point", where=where, fix=_OTHER_MODEL)


def check_tensors(tensors: TensorSource, model: Architecture, where: str) -> None:
    """Raises IntakeError when a tensor is missing, misshaped, not floating-point, or foreign to the network.

    Known but unused ones (rotary frequencies, causal masks, a copy of a tied head) pass.
    """
    expected = expected_tensors(model)
    missing = [name for name in expected if name not in tensors]
    found = {name: tensors.info(name) for name in expected if name in tensors}
    misshaped = [
        f"{name} is {list(info.shape)} instead of {_text(expected[name])}"
        for name, info in found.items()
        if not _fits(info.shape, expected[name])
    ]
    foreign = [f"{name} is {info.dtype}" for name, info in found.items() if info.dtype not in NAMES]
    unexpected = [
        name
        for name in tensors.names()
        if name not in expected and not any(fnmatchcase(name, pattern) for pattern in model.ignored)
    ]
    faults = [
        f"{label} {_listed(names)}"
        for label, names in (
            ("missing:", missing), ("wrong shape:", misshaped),
            ("not floating-point:", foreign), ("unexpected:", unexpected),
        )
        if names
    ]  # fmt: skip
    if faults:
        raise IntakeError(
            f"the weights do not fit config.json: {'; '.join(faults)}", where=where, fix=_fix(model, missing)
        )


def _tensors(model: Architecture) -> Iterator[tuple[str, Shape]]:
    hidden = (model.hidden,)
    if model.encoder:
        yield from _tensors(model.encoder)
    yield model.embedding, (model.vocabulary, model.embedding_width)
    if model.position_embedding:
        yield model.position_embedding, (model.context + model.position_offset, model.hidden)
    if model.token_type_embedding:
        yield model.token_type_embedding, (None, model.hidden)
    if model.relative_bias:
        yield model.relative_bias.table, (model.relative_bias.buckets, model.heads)
    if model.head_bias:
        yield model.head_bias, (1, model.vocabulary)
    yield from _norm(model.embedding_norm, hidden)
    for layer in model.layers:
        yield from _norm(layer.attention_norm, hidden)
        yield from _norm(layer.attention.query_norm, (model.head_dim,))
        yield from _norm(layer.attention.key_norm, (model.head_dim,))
        yield from _norm(layer.attention_post_norm, hidden)
        yield from _norm(layer.cross_attention_norm, hidden)
        yield from _norm(layer.feed_forward_norm, hidden)
        yield from _norm(layer.feed_forward_post_norm, hidden)
    yield from _norm(model.final_norm, hidden)
    for linear in (*model.linears, *model.gates):
        yield from _linear(linear)


def _norm(norm: Norm | None, shape: Shape) -> Iterator[tuple[str, Shape]]:
    if norm:
        yield norm.weight, shape
        if norm.bias:
            yield norm.bias, shape


def _linear(linear: Linear) -> Iterator[tuple[str, Shape]]:
    shape = (linear.out_features, linear.in_features)
    yield linear.name, shape[::-1] if linear.stored_in_out else shape
    if linear.bias:
        yield linear.bias, (linear.out_features,)


def _fits(shape: Shape, expected: Shape) -> bool:
    return len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True))


def _text(shape: Shape) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED_IN_ERRORS
    return ", ".join(names[:NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")


def _fix(model: Architecture, missing: Sequence[str]) -> str:
    if missing == [model.lm_head]:
        return "if the head is the token embedding, set tie_word_embeddings to true in config.json"
    return _OTHER_MODEL
