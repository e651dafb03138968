"""How much a channel matters, by each way to score it; what has the least goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...artifacts.tensors import TensorSource
    from ..base import Context
    from ..model.calibration.walk import Stop
    from ..model.channels import Group
    from ..model.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class Importance:
    """scores: by label of a group, float32 [count].  energies: of the state, where seen; see `state.py`."""

    scores: Mapping[str, Floats]
    energies: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)


def importance(context: Context[Any], source: Checkpoint, groups: Sequence[Group], part: str) -> Importance:
    """How much each channel of groups matters; see the functions below.

    part: what the walks of these groups are called.
    """
    scoring, kind = context.params.scoring, groups[0].kind
    seen = Importance({})
    if context.params.calibration is not None and (scoring == "activation" or kind == "hidden"):
        seen = {"hidden": by_state, "experts": by_expert}.get(kind, by_activation)(
            context, source, groups, part
        )
    match scoring:
        case "random":
            return Importance(by_chance(groups, context.seed), seen.energies)
        case "weight":
            scores = {group.label: by_weight(source.tensors, group) for group in groups}
            return Importance(scores, seen.energies)
        case "taylor":
            return Importance(by_gradient(context, source, groups), seen.energies)
    return seen


def most_important(scores: Floats, count: int) -> npt.NDArray[np.int64]:
    """The ``count`` channels of the highest scores, in their order; of equal ones, the first."""
    order = np.argsort(-scores, kind="stable")
    return np.sort(order[:count]).astype(np.int64)


def added(weight: torch.Tensor, within: torch.Tensor) -> Floats:
    """What each channel adds to the output of the map that takes it up: the root of its mean square.

    weight: [out, in].  within: XXᵀ by token within each channel, [count, width, width].
    """
    parts = weight.reshape(-1, *within.shape[:2])
    squares = (torch.einsum("ocw,cwv->ocv", parts, within) * parts).sum((0, 2))
    found: Floats = squares.clamp(min=0.0).sqrt().cpu().numpy()
    return found


def by_chance(groups: Sequence[Group], seed: int) -> dict[str, Floats]:
    """Random scores: what any other way to score must beat."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return {group.label: generator.random(group.count, dtype=np.float32) for group in groups}


def by_weight(tensors: TensorSource, group: Group) -> Floats:
    """The norm of all the weights that a channel has, over all tensors that it passes through."""
    squares = np.zeros(group.count)
    for channel, names in enumerate(group.members):
        squares[channel] += sum(np.square(tensors.float32(name)).sum(dtype=np.float64) for name in names)
    for span in group.spans:
        value = tensors.float32(span.tensor)
        others = tuple(axis for axis in range(value.ndim) if axis != span.axis)
        along = np.square(value).sum(axis=others, dtype=np.float64)
        for channel in range(group.count):
            start = span.first + channel * span.stride
            squares[channel] += along[start : start + span.width].sum()
        tensors.release(span.tensor)
    return np.sqrt(squares).astype(np.float32)


def by_gradient(context: Context[Any], source: Checkpoint, groups: Sequence[Group]) -> dict[str, Floats]:
    """The mean over windows of (Σ a·∂L/∂a)², a what a channel carries and L the loss of the text: the square
    of what the first term of a Taylor series says of the loss without it (Molchanov et al. 2019,
    arXiv:1906.10771).
    """
    from ..model.calibration.calibrate import calibration_text, choose_device, shelf_of
    from ..model.calibration.gates import gate_squares

    params = context.params
    found = gate_squares(
        source.architecture, source.tensors, groups, calibration_text(context, source).batches,
        shelf_of(params, context.job), choose_device(params.device), context.threads, context.seed,
        context.progress,
    )  # fmt: skip
    return {group.label: found[group.label].float().numpy() for group in groups}


def by_state(context: Context[Any], source: Checkpoint, groups: Sequence[Group], part: str) -> Importance:
    """Of a feature of the state, its share in what the maps that read it give, added up over norms."""
    from ..model.calibration.calibrate import calibrate
    from .state import ENERGY, StateVisitor

    (group,) = groups
    visitor = StateVisitor(source.architecture, source.tensors)
    results = calibrate(context, source, visitor, f"{part}-scores").results()
    shares = [results.float32(name) for name in results.names() if not name.endswith(ENERGY)]
    energies = {
        name.removesuffix(ENERGY): results.float32(name).astype(np.float64)
        for name in results.names()
        if name.endswith(ENERGY)
    }
    return Importance({group.label: np.stack(shares).sum(0)}, energies)


def by_expert(context: Context[Any], source: Checkpoint, groups: Sequence[Group], part: str) -> Importance:
    """Of an expert, the root of the sum of squares of what it adds, times its weight from the router (REAP,
    arXiv:2510.13999, has the mean over the tokens that came to it); 0 where none did.
    """
    from ..model.calibration.calibrate import calibrate
    from .experts import ExpertVisitor

    visitor = ExpertVisitor(source.architecture)
    results = calibrate(context, source, visitor, f"{part}-scores").results()
    scores = {}
    for group in groups:
        found = [results.float32(each.name)[0] if each.name in results else 0.0 for each in group.readers]
        scores[group.label] = np.asarray(found, np.float32)
    return Importance(scores)


def by_activation(
    context: Context[Any], source: Checkpoint, groups: Sequence[Group], part: str
) -> Importance:
    """What a channel adds to the output of the map that takes it up: the root of its mean square over tokens.

    Of a feature that is the root mean square of its activation (Minitron, arXiv:2407.14679, section 2.2, has
    the mean magnitude) times the norm of its column, of a head that of W_h x_h. Experts that no token came to
    are scored by their weights.
    """
    from ..model.calibration.calibrate import calibrate

    visitor = OutputVisitor(groups)
    journal = calibrate(context, source, visitor, f"{part}-scores")
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
    return Importance(found)


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
        weight = stop.tensors.original(linear).to(total.device)
        self._found[linear.name] = added(weight, total / stop.rows)

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
