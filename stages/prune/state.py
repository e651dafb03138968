"""What norms and embeddings make up for when the state that layers add to loses features.

A root-mean-square norm divides by the root of the mean over all features. Of n features that become k, with
the share f of their squares gone, the mean becomes (1 − f)·n/k of what it was; so a gain times √((1 − f)·n/k)
gives what stays as it was given. A scale that follows from the width (of Gemma's embeddings, of T5's head) is
put into the embedding, and taken out of the last norm again where the embedding is the head too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..model.channels import entries_and_exits, norms
from ..model.families import Mixture

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import numpy.typing as npt

    from ...artifacts.tensors import TensorSource
    from ..model.calibration.walk import Stop
    from ..model.families import Architecture, Linear, Norm

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

ENERGY = ".energy"


def factors(
    before: Architecture,
    after: Architecture,
    tensors: TensorSource,
    kept: Collection[int],
    energies: Mapping[str, Doubles],
) -> dict[str, float]:
    """By tensor, what gains and embeddings are multiplied by.

    energies: by the gain of a norm, the mean squares of the features that it divided, [hidden], as far as
    they were measured; for others those of the norm before, or of what the weights that write them give.
    """
    stays = np.zeros(before.hidden, bool)
    stays[list(kept)] = True
    growth = before.hidden / after.hidden
    written = _written(before, tensors)
    own = {norm.weight: written[linear.name] for norm, linear in _post_norms(before)}
    found: dict[str, float] = {}
    last: Doubles = np.mean([each / (each.sum() or 1.0) for each in written.values()], axis=0)
    for half in _halves(before):
        for norm in norms(half):
            energy = own.get(norm.weight)
            if energy is None:
                energy = last = energies.get(norm.weight, last)
            total = float(energy.sum())
            share = float(energy[stays].sum()) / total if total > 0 else 1.0
            found[norm.weight] = math.sqrt(share * growth)
    rescaled = before.embedding_scale / after.embedding_scale
    if rescaled != 1.0:
        found[before.embedding] = rescaled
    if before.final_norm is not None:
        tied = rescaled if before.tied else 1.0
        found[before.final_norm.weight] *= before.head_scale / after.head_scale / tied
    return found


def first_readers(model: Architecture) -> dict[str, Norm]:
    """Of the norms whose result is seen whole at a stop of the walk: name of the first map there → norm."""
    found: dict[str, Norm] = {}
    for half in _halves(model):
        for layer in half.layers:
            found[layer.attention.inputs[0].name] = layer.attention_norm
            if layer.cross_attention and layer.cross_attention_norm:
                found[layer.cross_attention.inputs[0].name] = layer.cross_attention_norm
                if layer.index == 0 and model.encoder and model.encoder.final_norm:
                    found[layer.cross_attention.inputs[1].name] = model.encoder.final_norm
            form = layer.feed_forward
            block = form.shared if isinstance(form, Mixture) else form
            if block is not None:
                found[block.linears[0].name] = layer.feed_forward_norm
        if half.head and half.final_norm and half.embedding_out is None:
            found[half.head.name] = half.final_norm
    return found


class StateVisitor:
    """Sees what norms give; see :class:`ingot.stages.model.calibration.walk.Visitor`.

    What it makes, by the name of the first map that reads a norm's result: the share of each feature in what
    the maps there give, float32 [hidden]; and by the norm's gain with ``.energy`` behind it, the mean square
    of each feature that the norm divided.
    """

    compares = False

    def __init__(self, model: Architecture, tensors: TensorSource) -> None:
        self._norms = first_readers(model)
        self.wanted: Collection[str] = set(self._norms)
        self._offset = 1.0 if model.norm == "rms_above_one" else 0.0
        self._tensors = tensors
        self._found: dict[str, npt.NDArray[np.generic]] = {}

    def visit(self, stop: Stop) -> None:
        """Takes the mean squares at a stop."""
        squares = torch.zeros(stop.inputs[0].shape[1], dtype=torch.float64)
        for part in stop.pool.map(_squares, stop.inputs):
            squares += part.cpu()
        squares /= max(stop.rows, 1)
        columns = sum(stop.tensors.original(linear).double().square().sum(0) for linear in stop.linears)
        shares = squares * columns
        name = next(linear.name for linear in stop.linears if linear.name in self._norms)
        gain = self._norms[name].weight
        scale = torch.from_numpy(self._tensors.float32(gain)).double() + self._offset
        energy = torch.where(scale == 0, 0.0, squares / scale.square())
        self._found[name] = (shares / shares.sum().clamp(min=1e-30)).float().numpy()
        self._found[f"{gain}{ENERGY}"] = energy.float().numpy()

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """What was seen since it was last asked."""
        found, self._found = self._found, {}
        return found, {}


def _squares(batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return batch.float().square().sum(0).double()


def _halves(model: Architecture) -> Iterator[Architecture]:
    yield from (half for half in (model.encoder, model) if half is not None)


def _post_norms(model: Architecture) -> Iterator[tuple[Norm, Linear]]:
    """Norms that stand between a map and the state, with the map."""
    for half in _halves(model):
        for layer in half.layers:
            if layer.attention_post_norm:
                yield layer.attention_post_norm, layer.attention.output
            if layer.feed_forward_post_norm and not isinstance(layer.feed_forward, Mixture):
                yield layer.feed_forward_post_norm, layer.feed_forward.down


def _written(model: Architecture, tensors: TensorSource) -> dict[str, Doubles]:
    """By tensor that writes the state, the squares of what writes each feature, [hidden]."""
    found = {name: _by_axis(tensors, name, 1) for name in model.embeddings}
    for half in _halves(model):
        for layer in half.layers:
            _, exits = entries_and_exits(layer)
            for linear in exits:
                found[linear.name] = _by_axis(tensors, linear.name, int(linear.stored_in_out))
    return found


def _by_axis(tensors: TensorSource, name: str, axis: int) -> Doubles:
    squares: Doubles = np.square(tensors.float32(name)).sum(axis=1 - axis, dtype=np.float64)
    tensors.release(name)
    return squares
