"""How each tensor of a network changes when its residual stream is written in another orthonormal basis.

With a state h (a row), what reads it computes W·diag(g)·n(h), n the root-mean-square norm without its gain g.
For an orthogonal Q, n(hQ) = n(h)Q: so if all that writes h writes hQ instead, and what reads it takes
W·diag(g)·Q, the network computes what it did (Ashkboos et al. 2024, SliceGPT, arXiv:2401.15024, section 3.2;
QuaRot, arXiv:2404.00456, section 4, stage 1). The values of a head can be rotated as well, since attention
only adds them up: the rows of the values' map by an orthogonal matrix, the columns of the output's by it too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...artifacts.errors import StageError
from ..model.families import Norm
from ..model.fold import Rows, folds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..model.families import Architecture, Layer, Linear


@dataclass(frozen=True)
class Change:
    """What is done to a tensor [out, in], or to a vector [out], in this order.

    gain: the norm's gain that multiplies its columns.  reads: its rows are rotated as states are.
    head_columns: its columns are rotated head by head.  head_rows: so are these output rows.
    writes: its columns are rotated as states are.  unit: it is a norm's gain and becomes that of no effect.
    stored_in_out: it is stored as [in, out].
    """

    gain: str | None = None
    reads: bool = False
    head_columns: bool = False
    head_rows: Rows | None = None
    writes: bool = False
    unit: bool = False
    stored_in_out: bool = False


UNCHANGED = Change()


def changes(model: Architecture, head: Linear, *, values: bool) -> dict[str, Change]:
    """By tensor name, what is done; other tensors stay.

    head: the output head, of its own or to be made of the token embedding.  values: whether the values of
    heads are rotated too.
    """
    final = model.final_norm
    found = {model.embedding: Change(reads=True)}
    found[head.name] = Change(final.weight if final else None, reads=True, stored_in_out=head.stored_in_out)
    for norm in _norms(model):
        found[norm.weight] = Change(unit=True)
    outputs = {layer.attention.output.name for layer in model.layers}
    for fold in folds(model):
        if isinstance(fold.source, Norm):
            for linear in fold.readers:
                found[linear.name] = Change(
                    fold.source.weight, reads=True, stored_in_out=linear.stored_in_out
                )
    for layer in model.layers:
        for linear in _writers(layer):
            found[linear.name] = Change(writes=True, stored_in_out=linear.stored_in_out)
            if linear.bias:
                found[linear.bias] = Change(writes=True)
    for fold in folds(model) if values else ():
        reader = fold.readers[0]
        if isinstance(fold.source, Rows) and reader.name in outputs:
            source = fold.source.linear
            found[reader.name] = replace(found[reader.name], head_columns=True)
            found[source.name] = replace(found[source.name], head_rows=fold.source)
            if source.bias:
                found[source.bias] = Change(head_rows=fold.source)
    return found


def require_rotatable(model: Architecture, where: str) -> None:
    """Raises StageError, with the reason, for a network whose residual stream cannot be rotated exactly."""
    if (reason := next(_reasons(model), None)) is not None:
        raise StageError(
            f"{model.model_type}: its residual stream cannot be rotated, since {reason}",
            where=where,
            fix="leave fuse.rotate out for this model",
        )


def _reasons(model: Architecture) -> Iterator[str]:
    if model.task != "causal-lm":
        yield "the stage takes decoders with an output head, of Llama's kin"
    if model.norm not in ("rms", "rms_above_one"):
        yield "a layer normalization takes the mean away, which a rotation does not keep"
    if not model.norm_first or model.final_norm is None:
        yield "norms stand in the stream itself, whose gains no map that follows can take in"
    if any(layer.attention_post_norm or layer.feed_forward_post_norm for layer in model.layers):
        yield "norms with gains stand behind its blocks, between what writes the stream and the stream"
    if model.embedding_in or model.embedding_out or model.embedding_norm or model.position_embedding:
        yield "more than the token embedding makes its first state"
    if model.head_bias is not None:
        yield "its output head has a bias beside it"


def _norms(model: Architecture) -> Iterator[Norm]:
    for layer in model.layers:
        yield layer.attention_norm
        yield layer.feed_forward_norm
    if model.final_norm is not None:
        yield model.final_norm


def _writers(layer: Layer) -> Iterator[Linear]:
    yield layer.attention.output
    for block in layer.feed_forward.blocks:
        yield block.down
