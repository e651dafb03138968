"""How much a channel matters, by each way to score it; what has the least goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from ...artifacts.tensors import TensorSource
    from ..base import Context
    from ..model.calibration.walk import Stop
    from ..model.channels import Group
    from ..model.checkpoint import Checkpoint

    Floats = npt.NDArray[np.float32]


def importance(context: Context[Any], source: Checkpoint, groups: Sequence[Group]) -> dict[str, Floats]:
    """By label of a group, the scores of its channels, float32 [count]; see the functions below."""
    scoring = context.params.scoring
    if scoring == "random":
        return by_chance(groups, context.seed)
    if scoring == "weight":
        return {group.label: by_weight(source.tensors, group) for group in groups}
    return by_activation(context, source, groups)


def most_important(scores: Floats, count: int) -> npt.NDArray[np.int64]:
    """The ``count`` channels of the highest scores, in their order; of equal ones, the first."""
    order = np.argsort(-scores, kind="stable")
    return np.sort(order[:count]).astype(np.int64)


def by_chance(groups: Sequence[Group], seed: int) -> dict[str, Floats]:
    """Random scores: what any other way to score must beat."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return {group.label: generator.random(group.count, dtype=np.float32) for group in groups}


def by_weight(tensors: TensorSource, group: Group) -> Floats:
    """The norm of all the weights that a channel has, over all tensors that it passes through."""
    squares = np.zeros(group.count)
    for span in group.spans:
        value = tensors.float32(span.tensor)
        others = tuple(axis for axis in range(value.ndim) if axis != span.axis)
        along = np.square(value).sum(axis=others, dtype=np.float64)
        for channel in range(group.count):
            start = span.first + channel * span.stride
            squares[channel] += along[start : start + span.width].sum()
        tensors.release(span.tensor)
    return np.sqrt(squares).astype(np.float32)


def by_activation(context: Context[Any], source: Checkpoint, groups: Sequence[Group]) -> dict[str, Floats]:
    """What a channel adds to the output of the map that takes it up: the root of its mean square over tokens.

    Of a feature that is the root mean square of its activation (Minitron, arXiv:2407.14679, section 2.2, has
    the mean magnitude) times the norm of its column, of a head that of W_h x_h. Experts that no token came to
    are scored by their weights.
    """
    from ..model.calibration.calibrate import calibrate

    visitor = OutputVisitor(groups)
    journal = calibrate(context, source, visitor, "scores")
    found, results, unseen = {}, journal.results(), []
    for group in groups:
        parts = [results.float32(reader.name) for reader in group.readers if reader.name in results]
        if parts:
            found[group.label] = np.stack(parts).sum(0)
        else:
            unseen.append(group.label)
            found[group.label] = by_weight(source.tensors, group)
    if unseen:
        context.note(
            f"{len(unseen)} experts were scored by their weights, since no token of the calibration text "
            f"came to them: {unseen[0]}" + (" and others" if len(unseen) > 1 else "")
        )
    return found


class OutputVisitor:
    """Takes what channels add; see :class:`ingot.stages.model.calibration.walk.Visitor`."""

    compares = False

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = {reader.name: group for group in groups for reader in group.readers}
        self.wanted = set(self._groups)
        self._found: dict[str, npt.NDArray[np.generic]] = {}

    def visit(self, stop: Stop) -> None:
        """Takes the mean squares of what a stop's channels add."""
        (linear,) = stop.linears
        group = self._groups[linear.name]
        if stop.rows == 0:
            return
        total = torch.zeros(group.count, group.width, group.width, device=stop.inputs[0].device)
        for part in stop.pool.map(lambda batch: _products(batch, group), stop.inputs):
            total += part
        weight = stop.tensors.original(linear).to(total.device).reshape(-1, group.count, group.width)
        squares = (torch.einsum("ocw,cwv->ocv", weight, total) * weight).sum((0, 2)) / stop.rows
        self._found[linear.name] = squares.clamp(min=0.0).sqrt().cpu().numpy()

    def collect(self) -> tuple[Mapping[str, npt.NDArray[np.generic]], Mapping[str, object]]:
        """Their roots since it was last asked."""
        found, self._found = self._found, {}
        return found, {}


def _products(batch: torch.Tensor, group: Group) -> torch.Tensor:
    """inputs [rows, count · width] → float32 [count, width, width], XᵀX within each channel."""
    with torch.inference_mode():
        parts = batch.float().reshape(len(batch), group.count, group.width)
        if group.width == 1:
            return parts.square().sum(0)[:, :, None]
        return torch.einsum("rcw,rcv->cwv", parts, parts)
