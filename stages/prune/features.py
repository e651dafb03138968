"""Trains the features of feed-forwards that stay where a walk meets them, and has it go on with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..model.families import Linear
from .imitation import Features, Rows, imitate
from .stored import rounded

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ...artifacts.tensors import TensorSource
    from ..model.calibration.walk import Stop
    from ..model.families import Architecture, FeedForward
    from ..model.families.architecture import Activation

# One row in so many decides whether what came out is better, and is not trained on: the last ones.
HELD_OUT = 16


@dataclass(frozen=True, eq=False)
class Trained:
    """maps: what became of a feed-forward's maps, float32 [out, in], by map; none where it was no better.

    error: on the rows held out, of what training made, in units of what it was before.
    """

    maps: Mapping[Linear, torch.Tensor]
    error: float


class FeatureTrainer:
    """Of a walk that compares. source: of the checkpoint.  exits: names of weights that take channels up;
    those that are exits of feed-forwards have their features trained, save of experts, whose rows differ
    between the two networks, of factored maps, and where a weight is used in several layers.

    epochs: how often the text is gone through.  threads: that torch may use, which the walk does not.
    """

    def __init__(
        self,
        source: TensorSource,
        model: Architecture,
        exits: Collection[str],
        epochs: int,
        seed: int,
        threads: int,
    ) -> None:
        self._source = source
        found = [(form, kind) for form, kind in _trainable(model) if form.down.name in exits]
        self._blocks = {form.down.name: form for form, _ in found}
        self._activations = {form.down.name: kind for form, kind in found}
        self._epochs, self._seed, self._threads = epochs, seed, threads
        self._entries = {form.linears[0].name: name for name, form in self._blocks.items()}
        self._read: dict[str, Sequence[torch.Tensor]] = {}

    @property
    def entries(self) -> Collection[str]:
        """Names of the weights at whose stops :meth:`read` is to be called."""
        return self._entries.keys()

    def read(self, stop: Stop) -> None:
        """Keeps what feed-forwards read, until their features are trained."""
        for linear in stop.linears:
            if (name := self._entries.get(linear.name)) is not None:
                self._read[name] = stop.inputs

    def train(
        self,
        down: Linear,
        stop: Stop,
        ahead: Sequence[torch.Tensor],
        kept: torch.Tensor,
        fitted: torch.Tensor,
    ) -> Trained | None:
        """The feed-forward of the ``kept`` features, trained to give what the dense network's state asks for;
        None for maps that are no exit of one. At the stop of ``down`` the walk goes on with its features.

        ahead: Δ of :func:`ingot.stages.prune.refit.fitted` by batch, which becomes what is to be given.
        fitted: what takes the features up, float32 [out, kept].
        """
        read = self._read.pop(down.name, None)
        if read is None:
            return None
        form, device = self._blocks[down.name], stop.inputs[0].device
        whole, places = stop.tensors.original(down).to(device), kept.to(device)
        for target, given in zip(ahead, stop.inputs, strict=True):
            target.add_(given.float() @ whole.T)
        rows = Rows(read, ahead)
        seen = rows.count - max(1, rows.count // HELD_OUT)
        which, held_out = torch.arange(seen), torch.arange(seen, rows.count)
        before = self._features(form, stop, places, fitted.to(device))
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            made = imitate(before, rows, which, self._epochs, self._seed)
        finally:
            torch.set_num_threads(threads)
        maps = {
            linear: rounded(value, self._source.info(linear.name).dtype)
            for linear, value in _maps(form, made)
        }
        made = _features(form, maps, before)
        first, last = (each.error(rows, held_out) for each in (before, made))
        if not last < first:
            return Trained({}, 1.0)
        for given, own in zip(stop.inputs, read, strict=True):
            given[:, places] = made.active(own.float()).to(given.dtype)
        return Trained({linear: value.cpu() for linear, value in maps.items()}, (last / first) ** 0.5)

    def _features(self, form: FeedForward, stop: Stop, kept: torch.Tensor, fitted: torch.Tensor) -> Features:
        count, places, kind = form.down.in_features, kept, self._activations[form.down.name]
        if form.gate_in_up:
            places = torch.cat([kept, count + kept])
        maps = {form.down: fitted, form.up: self._rows(form.up, stop, places)}
        biases = [self._bias(form.up, stop, places)]
        if form.gate is not None:
            maps[form.gate] = self._rows(form.gate, stop, kept)
            biases.append(self._bias(form.gate, stop, kept))
        elif form.gate_in_up:
            biases = list(biases[0].chunk(2)[::-1]) if biases[0] is not None else [None, None]
        return _features(form, maps, Features(fitted, fitted, kind, None, *biases))

    def _rows(self, linear: Linear, stop: Stop, places: torch.Tensor) -> torch.Tensor:
        return stop.tensors.original(linear).to(places.device)[places]

    def _bias(self, linear: Linear, stop: Stop, places: torch.Tensor) -> torch.Tensor | None:
        return None if linear.bias is None else stop.tensors.vector(linear.bias)[places]


def _trainable(model: Architecture) -> Iterator[tuple[FeedForward, Activation]]:
    """Feed-forwards, each with the activation of its half of the network."""
    halves = [half for half in (model.encoder, model) if half is not None]
    blocks = [
        (block, half.activation)
        for half in halves
        for layer in half.layers
        for block in layer.feed_forward.blocks
    ]
    uses = Counter(block.down.name for block, _ in blocks)
    for form, activation in blocks:
        is_plain = all(linear.first is None for linear in form.linears)
        if is_plain and uses[form.down.name] == 1 and form.down.name not in model.routed:
            yield form, activation


def _features(form: FeedForward, maps: Mapping[Linear, torch.Tensor], like: Features) -> Features:
    """The features of a feed-forward's maps; activation and biases as of others."""
    up, gate = maps[form.up], None if form.gate is None else maps[form.gate]
    if form.gate_in_up:
        gate, up = up.chunk(2)
    return like.of([maps[form.down], up, *([] if gate is None else [gate])])


def _maps(form: FeedForward, features: Features) -> Iterator[tuple[Linear, torch.Tensor]]:
    """What :func:`_features` is made of."""
    yield form.down, features.down
    if features.gate is not None and form.gate is not None:
        yield form.gate, features.gate
    fused = [features.gate] if form.gate_in_up and features.gate is not None else []
    yield form.up, torch.cat([*fused, features.up])
