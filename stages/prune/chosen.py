"""Which channels stay, and what takes them up fitted anew; in one walk where one place tells both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..model.calibration.fallbacks import describe_fallbacks
from .features import FeatureTrainer
from .importance import added, by_weight, importance, most_important
from .least_squares import damped_cholesky
from .refit import KEPT, RefitVisitor
from .single import has_single_reader
from .surgeon import surviving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from ..base import Context
    from ..model.calibration.walk import Stop
    from ..model.channels import Group
    from ..model.checkpoint import Checkpoint
    from ..model.families import Architecture
    from .least_squares import Choose

    Indices = npt.NDArray[np.int64]
    Counts = Sequence[tuple[Group, int]]
    Fitted = Mapping[str, Callable[[], npt.NDArray[np.float32]]]
    Kept = Sequence[tuple[Group, Indices]]
    Energies = Mapping[str, npt.NDArray[np.float64]]

ACTIVATION, OBS = "activation", "obs"
# Kinds of what is added to the state, which leave its own width as it is.
ADDED = ("heads", "ffn")
# Of training the features that stay, where nothing is said.
FEATURE_EPOCHS = 2


@dataclass(frozen=True, eq=False)
class Chosen:
    """kept: of each group the channels that stay.  changed: the maps that were fitted, float32 in their new
    shapes.  energies: see `state.py`.  told: what was observed, by tensor.
    """

    kept: Kept
    changed: Fitted = field(default_factory=dict)
    energies: Energies = field(default_factory=dict)
    told: Mapping[str, object] = field(default_factory=dict)


def choose(context: Context[Any], source: Checkpoint, counts: Counts, part: str) -> Chosen:
    """The channels of groups that stay, so many of each.

    Where channels are scored by the text and maps are fitted to it, each map's are scored by what it reads in
    the network as it has become so far, when the walk gets there; else before, in the whole network.
    part: what the walks of these groups are called.
    """
    params = context.params
    refits = params.refit and params.calibration is not None
    is_local = params.scoring in (ACTIVATION, OBS) and all(has_single_reader(group) for group, _ in counts)
    if refits and is_local:
        ways = {
            group.readers[0].name: partial(
                _at_stop, source, group, count, params.damp_percent, params.scoring
            )
            for group, count in counts
        }
        results, changed, told = _fitted(context, source, ways, part)
        kept = [(group, results[group.readers[0].name][:: group.width] // group.width) for group, _ in counts]
        return Chosen(kept, changed, told=told)
    found = importance(context, source, [group for group, _ in counts], part)
    kept = [(group, most_important(found.scores[group.label], count)) for group, count in counts]
    known = {
        reader.name: partial(_known, _inputs(channels, group.width))
        for group, channels in kept
        for reader in group.readers
        if group.width
    }
    if not refits or not known:
        return Chosen(kept, energies=found.energies)
    _, changed, told = _fitted(context, source, known, part)
    return Chosen(kept, changed, found.energies, told)


def _fitted(
    context: Context[Any], source: Checkpoint, ways: Mapping[str, Choose], part: str
) -> tuple[Mapping[str, Indices], Fitted, Mapping[str, object]]:
    """By map: the inputs that stay, the fitted weight, and what was observed."""
    from ..model.calibration.calibrate import calibrate

    params, tensors, model = context.params, source.tensors, source.architecture
    epochs = FEATURE_EPOCHS if params.feature_epochs is None else params.feature_epochs
    trainer = None
    if epochs:
        seed, threads = context.seed, context.threads
        trainer = FeatureTrainer(tensors, model, ways, epochs, params.damp_percent, seed, threads)
    whole = set(_outputs(model)) - set(ways) if part in ADDED else ()
    visitor = RefitVisitor(tensors, ways, params.damp_percent, whole, trainer)
    journal = calibrate(context, source, visitor, f"{part}-refit")
    evidence, results = journal.evidence(), journal.results()
    if remark := describe_fallbacks(evidence, "cut without fitting"):
        context.note(remark)
    kept = {name: results.array(name + KEPT) for name in ways}
    made = [name for name in results.names() if not name.endswith(KEPT)]
    return kept, {name: partial(results.float32, name) for name in made}, evidence


def _known(
    inputs: Indices, _stop: Stop, _weight: torch.Tensor, _hessian: torch.Tensor, _drift: torch.Tensor | None
) -> Indices:
    return inputs


def _at_stop(
    source: Checkpoint,
    group: Group,
    count: int,
    damp: float,
    scoring: str,
    stop: Stop,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    drift: torch.Tensor | None,
) -> Indices:
    """The inputs of the channels that matter most by what the map reads; by their weights where that is
    nothing.
    """
    if stop.rows == 0:
        return _inputs(most_important(by_weight(source.tensors, group), count), group.width)
    if scoring == OBS:
        lower, whole = damped_cholesky(hessian.double(), damp), weight.double()
        if drift is not None:
            whole = whole + torch.cholesky_solve(drift.double().T, lower).T
        return _inputs(surviving(whole, lower, count, group.width), group.width)
    within = hessian.view(group.count, group.width, group.count, group.width).diagonal(dim1=0, dim2=2)
    return _inputs(most_important(added(weight, within.permute(2, 0, 1)), count), group.width)


def _outputs(model: Architecture) -> Iterator[str]:
    """The names of maps that add what attention gives to the state."""
    for half in (model.encoder, model):
        for layer in half.layers if half is not None else ():
            for attention in (layer.attention, layer.cross_attention):
                if attention is not None and attention.output.first is None:
                    yield attention.output.name


def _inputs(channels: Indices, width: int) -> Indices:
    found: Indices = (channels[:, None] * width + np.arange(width)).reshape(-1)
    return found
