"""Chooses and trains the features of feed-forwards where a walk meets them, and has it go on with them.

Of a feed-forward whose features go, none is computed for the whole text before it is known which stay: a part
of the text chooses them, all of it trains those that are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..model.calibration.fallbacks import LEAST_ROWS
from ..model.calibration.gram import cross, gram
from ..model.calibration.second_order import weighted_error
from ..model.families import Linear
from .imitation import Features, Rows, imitate
from .least_squares import fitted, is_same, relative, squares
from .stored import rounded

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ...artifacts.tensors import TensorSource
    from ..model.calibration.walk import Stop
    from ..model.families import Architecture, FeedForward
    from ..model.families.architecture import Activation
    from .least_squares import Choose

# One row in so many decides whether what came out is better, and is not trained on: the last ones.
HELD_OUT = 16
# Rows for each feature that tell which of them stay, where there are as many.
ROWS_TO_CHOOSE = 16
# Of the whole, what sums of products in float32 do not tell apart.
NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class Trained:
    """maps: what became of a feed-forward's maps, float32 [out, in], by map.  kept: int64, its features that
    stay.  active: those on the whole text, [rows, kept] by batch.  told: what was observed.
    """

    maps: Mapping[Linear, torch.Tensor]
    kept: torch.Tensor
    active: Sequence[torch.Tensor]
    told: Mapping[str, object]


@dataclass(frozen=True, eq=False)
class _Read:
    """What a feed-forward reads, by batch, and what it was.

    is_first: whether nothing was taken from the network before it.
    """

    inputs: Sequence[torch.Tensor]
    whole: Features
    is_first: bool


class FeatureTrainer:
    """Of a walk that compares. source: of the checkpoint.  exits: names of weights that take channels up;
    those that are exits of feed-forwards have their features trained, save of experts, whose rows differ
    between the two networks, of factored maps, and where a weight is used in several layers.

    epochs: how often the text is gone through.  damp: of least squares.  threads: that torch may use, which
    the walk does not.
    """

    def __init__(
        self,
        source: TensorSource,
        model: Architecture,
        exits: Collection[str],
        epochs: int,
        damp: float,
        seed: int,
        threads: int,
    ) -> None:
        self._source = source
        found = [(form, kind) for form, kind in _trainable(model) if form.down.name in exits]
        self._blocks = {form.down.name: form for form, _ in found}
        self._activations = {form.down.name: kind for form, kind in found}
        self._epochs, self._damp, self._seed, self._threads = epochs, damp, seed, threads
        self._entries = {form.linears[0].name: name for name, form in self._blocks.items()}
        self._read: dict[str, _Read] = {}

    @property
    def entries(self) -> Collection[str]:
        """Names of the weights at whose stops :meth:`read` is to be called."""
        return self._entries.keys()

    def read(self, stop: Stop) -> None:
        """Keeps what feed-forwards read, until their features are trained; the walk computes none of them."""
        for linear in stop.linears:
            name = self._entries.get(linear.name)
            if name is None or stop.exact is None:
                continue
            form = self._blocks[name]
            if stop.rows >= LEAST_ROWS * form.down.in_features:
                self._read[name] = _Read(stop.inputs, self._whole(form, stop), is_same(stop))
                for each in form.linears[:-1]:
                    stop.tensors.replace(each, stop.tensors.original(each)[:0])
                    if each.bias is not None:
                        stop.tensors.replace_vector(each.bias, stop.tensors.vector(each.bias)[:0])

    def train(self, down: Linear, stop: Stop, choose: Choose) -> Trained | None:
        """The features that stay of a feed-forward, trained to give what the dense network's state asks for;
        None for maps that are no exit of one that was read.
        """
        if (read := self._read.pop(down.name, None)) is None:
            return None
        form, device = self._blocks[down.name], stop.inputs[0].device
        wanted = _wanted(stop, read.whole.down.to(device))
        rows = Rows(read.inputs, wanted)
        seen = rows.count - max(1, rows.count // HELD_OUT)
        kept, before, cut_error = self._chosen(down, stop, read, wanted, seen, choose)
        made, error = self._trained(form, before, rows, seen)
        active = _by_batch(stop, made, read.inputs)
        products = gram(active, stop.pool) / rows.count
        given = cross(_as(wanted, active), active, stop.pool) / rows.count
        plain = read.whole.down[:, kept].to(device) if error is None else made.down
        whole = _squares(wanted, rows.count)
        candidates = [
            rounded(each, self._source.info(down.name).dtype)
            for each in (made.down.cpu(), _refitted(plain.cpu(), products.cpu(), given.cpu(), self._damp))
        ]
        losses = [_lost(each, products.cpu(), given.cpu(), whole) for each in candidates]
        is_better = losses[1] < losses[0] - NOISE * whole
        maps = {form.down: candidates[is_better]}
        if error is not None:
            maps = {linear: value.cpu() for linear, value in _maps(form, made)} | maps
        stop.tensors.replace(down, maps[form.down])
        told = {
            "fallback": None,
            "weighted_error": relative(losses[is_better], whole),
            "cut_weighted_error": cut_error,
            "rows": rows.count,
            "error_of_trained": 1.0 if error is None else error,
        }
        return Trained(maps, kept, active, told)

    def _chosen(
        self,
        down: Linear,
        stop: Stop,
        read: _Read,
        wanted: Sequence[torch.Tensor],
        seen: int,
        choose: Choose,
    ) -> tuple[torch.Tensor, Features, float]:
        """The features that stay, fitted, and the error of cutting alone; by a part of the rows ``seen``."""
        places = part_of([len(each) for each in read.inputs], ROWS_TO_CHOOSE * down.in_features, seen)
        some = [wanted[place] for place in places]
        active = _by_batch(stop, read.whole, [read.inputs[place] for place in places])
        count = sum(len(each) for each in some)
        hessian = (gram(active, stop.pool) / count).cpu()
        weight, drift, apart = read.whole.down, None, 0.0
        if not read.is_first:
            ahead = _ahead(stop, some, active, weight.to(active[0].device))
            drift = (cross(_as(ahead, active), active, stop.pool) / count).cpu()
            apart = _squares(ahead, count)
        kept = torch.from_numpy(choose(stop, weight, hessian, drift))
        gone = weight.clone()
        gone[:, kept] = 0
        cut_error = squares(gone, hessian, drift) + apart
        found = fitted(weight, kept, hessian, drift, self._damp).to(active[0].device)
        return kept, read.whole.some(kept, found), relative(cut_error, _squares(some, count))

    def _trained(
        self, form: FeedForward, before: Features, rows: Rows, seen: int
    ) -> tuple[Features, float | None]:
        """Features as they are stored, and their error in units of what it was; None where it is no lower."""
        which, held_out = torch.arange(seen), torch.arange(seen, rows.count)
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
        return (made, (last / first) ** 0.5) if last < first else (before, None)

    def _whole(self, form: FeedForward, stop: Stop) -> Features:
        """The feed-forward of the checkpoint; its exit lies on the processor."""
        maps = {linear: stop.tensors.original(linear) for linear in form.linears}
        device, kind = stop.inputs[0].device, self._activations[form.down.name]
        biases = [self._bias(form.up, stop)]
        if form.gate is not None:
            biases.append(self._bias(form.gate, stop))
        elif form.gate_in_up:
            biases = list(biases[0].chunk(2)[::-1]) if biases[0] is not None else [None, None]
        there = {linear: value.to(device) for linear, value in maps.items() if linear != form.down}
        down = maps[form.down]
        return _features(form, {**there, form.down: down}, Features(down, down, kind, None, *biases))

    def _bias(self, linear: Linear, stop: Stop) -> torch.Tensor | None:
        return None if linear.bias is None else stop.tensors.vector(linear.bias)


def _wanted(stop: Stop, down: torch.Tensor) -> list[torch.Tensor]:
    """What is to be given for the state to be the dense network's: float32 [rows, out] by batch."""
    ours, theirs = (each or (None,) * len(stop.inputs) for each in (stop.onto, stop.exact_onto))

    def of(batch: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        exact, onto, exact_onto = batch
        with torch.inference_mode():
            found = exact.float() @ down.T  # type: ignore[union-attr]
            return stop.keep(found if onto is None or exact_onto is None else found + (exact_onto - onto))

    return list(stop.pool.map(of, zip(stop.exact or (), ours, theirs, strict=True)))


def _ahead(
    stop: Stop, wanted: Sequence[torch.Tensor], active: Sequence[torch.Tensor], down: torch.Tensor
) -> list[torch.Tensor]:
    """Δ by batch: what is asked for beside what ``down`` gives of features. Taken row by row, since the
    products of large sums that nearly are one another tell nothing of what they differ by.
    """

    def of(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            return batch[0] - batch[1].float() @ down.T

    return list(stop.pool.map(of, zip(wanted, active, strict=True)))


def _by_batch(stop: Stop, features: Features, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What ``down`` reads, [rows, features] by batch in the dtype of the inputs."""

    def of(rows: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return stop.keep(features.active(rows.float()).to(rows.dtype))

    return list(stop.pool.map(of, inputs))


def part_of(lengths: Sequence[int], needed: int, seen: int) -> list[int]:
    """Batches spread over those that are ``seen`` whole, with ``needed`` rows or more where there are."""
    ends = torch.tensor(lengths).cumsum(0)
    places = [place for place in range(len(lengths)) if ends[place] <= seen] or list(range(len(lengths)))
    count = sum(lengths[place] for place in places)
    return places[:: max(1, count // max(needed, 1))]


def _as(targets: Sequence[torch.Tensor], batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [each.to(batch.dtype) for each, batch in zip(targets, batches, strict=True)]


def _squares(batches: Sequence[torch.Tensor], count: int) -> float:
    """The mean over rows of their squares."""
    return sum(float(each.square().sum(dtype=torch.float64)) for each in batches) / max(count, 1)


def _refitted(weight: torch.Tensor, hessian: torch.Tensor, given: torch.Tensor, damp: float) -> torch.Tensor:
    """The map nearest to what is asked for. hessian: XXᵀ.  given: TXᵀ, T what is asked for."""
    return fitted(weight, torch.arange(weight.shape[1]), hessian, given - weight @ hessian, damp)


def _lost(weight: torch.Tensor, hessian: torch.Tensor, given: torch.Tensor, whole: float) -> float:
    """‖T − WX‖² by row; hessian: XXᵀ.  given: TXᵀ.  whole: ‖T‖²."""
    own = float(weighted_error(weight, hessian).sum(dtype=torch.float64))
    return whole + own - 2 * float((weight * given).sum(dtype=torch.float64))


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
