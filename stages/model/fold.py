"""Channel scales folded into a network: linear maps take them in, what makes their input gives them back.

With positive s, W·x = (W·diag(s))·(diag(s)⁻¹·x). Where x comes out of a norm, or out of a linear map with
nothing but products and sums between, diag(s)⁻¹ goes into that one's tensors, and the network computes what
it did, without another operator. SmoothQuant (arXiv:2211.10438) and AWQ (arXiv:2306.00978) choose s.

Which inputs can be scaled follows from the architecture:

* a norm in front of a block (``norm_first``), whose result only the block's maps read: attention's, the
  feed-forward's entries, or both where a parallel layer has one norm; the routers of a mixture read it too;
* values, for attention's output map: what is mixed are sums of values with weights that add up to one. Query
  heads that share a value head share its scales;
* the entry that opens a gate, and one behind a ReLU, for the exit of a feed-forward;
* the last norm, for an output head of its own.

A norm behind a block (BERT, BART) also goes on in the residual stream, and a GELU does not commute with
scales: those inputs stay as they are. An encoder's last norm is its result, so it is left alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .families import Linear, Mixture, Norm

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

    from .families import Architecture, Attention, FeedForward, Layer

    Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Output rows of a linear map: that of scale i is first + i // block · stride + i % block."""

    linear: Linear
    first: int
    block: int
    stride: int


@dataclass(frozen=True)
class Fold:
    """Maps that read one input, and what makes it.

    readers: those that may be quantized and those that never are, in the order of computation.
    width: how many scales there are to choose. Input channel c takes that of c // (repeats·block)·block +
    c % block: each block of them is repeated, as a value head is for its query heads.
    offset: what the source's stored scale is short of, 1 in Gemma's norms.
    """

    readers: tuple[Linear, ...]
    source: Norm | Rows
    width: int
    block: int
    repeats: int = 1
    offset: float = 0.0

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """What scales go into: inputs of weights, outputs of a weight or norm, each by its tensor's name."""
        made = self.source.weight if isinstance(self.source, Norm) else self.source.linear.name
        return (*(("in", linear.name) for linear in self.readers), ("out", made))

    def expand(self, scales: Floats) -> Floats:
        """[width] → [in_features]: the scale of each input channel."""
        import numpy as np

        return np.repeat(scales.reshape(-1, 1, self.block), self.repeats, axis=1).reshape(-1)

    def gather(self, magnitudes: Floats) -> Floats:
        """[in_features] → [width]: the largest magnitude among the input channels that share a scale."""
        found: Floats = magnitudes.reshape(-1, self.repeats, self.block).max(axis=1).reshape(-1)
        return found


@dataclass(frozen=True)
class Factors:
    """What a tensor is multiplied by. rows: float32 [out], or [width] of a vector.  columns: float32 [in].

    offset: added before and taken away after.
    """

    rows: Floats | None = None
    columns: Floats | None = None
    offset: float = 0.0

    def apply(self, value: Floats, rows: slice = slice(None)) -> Floats:
        """A vector, or those ``rows`` of a weight [out, in], as float32; ``value`` itself stays."""
        import numpy as np

        result = value.astype(np.float32)
        if self.rows is not None:
            factor = self.rows[rows]
            result = (result + np.float32(self.offset)) * (factor if value.ndim == 1 else factor[:, None])
            result -= np.float32(self.offset)
        if self.columns is not None:
            result *= self.columns
        return result


def folds(model: Architecture) -> tuple[Fold, ...]:
    """Every input of a network whose channels can be scaled for free, in the order of computation.

    What layers share is scaled in all of them or in none: where they share all that takes part, it is one
    fold; where a shared map is fed by different norms, there is no scale that would suit each.
    """
    halves = (model.encoder, model) if model.encoder else (model,)
    found = tuple(dict.fromkeys(fold for half in halves for fold in _half(half)))
    uses = Counter(part for fold in found for part in fold.parts)
    return tuple(fold for fold in found if all(uses[part] == 1 for part in fold.parts))


def folds_within(model: Architecture, names: Collection[str]) -> dict[int, Fold]:
    """By their places in :func:`folds`, those that change no linear weight but those ``names``.

    Routers of mixtures, which are never quantized, are not among ``names``.
    """

    def is_within(fold: Fold) -> bool:
        changed = [linear.name for linear in fold.readers]
        changed += [] if isinstance(fold.source, Norm) else [fold.source.linear.name]
        return all(name in names for name in changed)

    return {place: fold for place, fold in enumerate(folds(model)) if is_within(fold)}


def factors(applied: Iterable[tuple[Fold, Floats]]) -> dict[str, Factors]:
    """By name, what each tensor is multiplied by when scales float32 [width], all above 0, are folded.

    Weights are meant as [out, in], however they are stored. A tensor may take part in two folds: its columns
    in one, its rows in the other.
    """
    import numpy as np

    found: dict[str, Factors] = {}
    for fold, scales in applied:
        if scales.shape != (fold.width,) or not (np.isfinite(scales).all() and (scales > 0).all()):
            raise ValueError(f"the scales of {fold.readers[0].name} are not {fold.width} numbers above 0")
        for linear in fold.readers:
            known = found.get(linear.name, Factors())
            found[linear.name] = Factors(known.rows, _product(known.columns, fold.expand(scales)))
        for name, rows in _given_back(fold, np.float32(1) / scales):
            known = found.get(name, Factors())
            found[name] = Factors(_product(known.rows, rows), known.columns, fold.offset)
    return found


def _product(known: Floats | None, factor: Floats) -> Floats:
    return factor if known is None else known * factor


def _given_back(fold: Fold, inverse: Floats) -> Iterator[tuple[str, Floats]]:
    """The tensors of a fold's source, and what their entries, or rows, are multiplied by."""
    import numpy as np

    source = fold.source
    if isinstance(source, Norm):
        rows, names = inverse, (source.weight, source.bias)
    else:
        index = np.arange(fold.width)
        rows = np.ones(source.linear.out_features, np.float32)
        rows[source.first + index // source.block * source.stride + index % source.block] = inverse
        names = (source.linear.name, source.linear.bias)
    for name in names:
        if name is not None:
            yield name, rows


def _half(model: Architecture) -> Iterator[Fold]:
    for layer in model.layers:
        yield from _layer(model, layer)
    head = model.head
    if model.final_norm and head and model.embedding_out is None and model.task != "encoder":
        yield _norm(model, model.final_norm, (head,))


def _layer(model: Architecture, layer: Layer) -> Iterator[Fold]:
    inputs, entries = layer.attention.inputs, _entries(layer.feed_forward)
    is_shared = model.parallel and layer.feed_forward_norm == layer.attention_norm
    if model.norm_first:
        yield _norm(model, layer.attention_norm, (*inputs, *entries) if is_shared else inputs)
    yield _values(model, layer.attention)
    if layer.cross_attention and layer.cross_attention_norm:
        if model.norm_first:
            yield _norm(model, layer.cross_attention_norm, layer.cross_attention.inputs[:1])
        yield _values(model, layer.cross_attention)
    if model.norm_first and not is_shared:
        yield _norm(model, layer.feed_forward_norm, entries)
    for block in layer.feed_forward.blocks:
        yield from _exit(model, block)


def _norm(model: Architecture, norm: Norm, readers: tuple[Linear, ...]) -> Fold:
    offset = 1.0 if model.norm == "rms_above_one" else 0.0
    readers = tuple(linear.entry for linear in readers)
    return Fold(readers, norm, model.hidden, model.hidden, offset=offset)


def _values(model: Architecture, attention: Attention) -> Fold:
    """Attention's output map, whose input is mixed of values."""
    head, width, last = model.head_dim, model.kv_heads * model.head_dim, attention.inputs[-1]
    if attention.interleaved:
        rows = Rows(last, 2 * head, head, 3 * head)
    else:
        rows = Rows(last, last.out_features - width, width, width)
    return Fold((attention.output.entry,), rows, width, head, model.heads // model.kv_heads)


def _entries(form: FeedForward | Mixture) -> tuple[Linear, ...]:
    """The maps that read a feed-forward's input, a mixture's router and shared gate among them."""
    gates = form.gates if isinstance(form, Mixture) else ()
    return (*gates, *(linear for block in form.blocks for linear in block.linears[:-1]))


def _exit(model: Architecture, block: FeedForward) -> Iterator[Fold]:
    is_gated = block.gate is not None or block.gate_in_up
    if is_gated or model.activation == "relu":
        entry = block.down.entry
        width = entry.in_features
        yield Fold((entry,), Rows(block.up, block.up.out_features - width, width, width), width, width)
