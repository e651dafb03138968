"""A training under masks that grow, compared with what pruning at once would have given."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..base import Result
from ..model.calibration.calibrate import choose_device
from ..model.checkpoint import Checkpoint
from ..model.dtypes import NAMES
from ..train.checkpoint import curves, fit
from ..train.hooks import Hook, KeepZeros
from ..train.lesson import lesson
from ..train.network import Network
from ..train.text import read_corpus
from ..train.trainer import selection_loss, step_count
from ..train.weights import Weights, freeze
from .choice import choose
from .schedule import GradualMasks, Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..base import Context
    from ..model.sparsity import Target
    from ..train.objective import Objective
    from ..train.text import Corpus
    from .gradual import GradualParams


def prune_gradually(context: Context[GradualParams]) -> Result:
    """The work of `prune.gradual`: the best point from where all of it is zero on, or pruning at once."""
    params, source = context.params, Checkpoint.open(context.inputs["model"].path)
    model = source.architecture
    linears = {linear.name: linear for linear in model.linears}
    targets = choose(model, params)
    corpus = read_corpus(source, params, context.note)
    network = Network.load(source, dropout=params.dropout)
    schedule = Schedule.over(
        step_count(params, corpus.training), params.ramp, params.initial_sparsity, params.prune_every
    )
    objective, taught = lesson(context, context.inputs.get("teacher1"), source, corpus)
    began = {name: value.detach().clone() for name, value in network.module.state_dict().items()}
    whole_masks = GradualMasks(network, linears, targets, replace(schedule, initial=0.0))
    whole_masks.prune_at_once()
    at_once_loss = _loss(network, objective, corpus, params)
    network.module.load_state_dict(began)

    masks = GradualMasks(network, linears, targets, schedule)
    hooks: list[Hook] = [masks]
    if pruned := network.pruned():
        hooks.append(KeepZeros(pruned))
    freeze(network.module, params.freeze)

    def keep(directory: Path) -> None:
        network.write_directory(directory)

    history = fit(
        context, network.module, objective, corpus, keep,
        hooks=hooks, stored=network.stored, first_result=schedule.end,
    )  # fmt: skip
    best = history.best_loss
    is_gradual = best is not None and best <= at_once_loss
    if not is_gradual:
        context.note("gradual pruning was no better than pruning at once, which is returned, untrained")
        network.module.load_state_dict(began)
        whole_masks.prune_at_once()
    network.write(context.output)
    facts, described = _counted(network, targets)
    observed = {
        "tensors": described, "training": curves(history), "reference_loss": taught,
        "at_once_loss": at_once_loss, "pruned_behind": schedule.end,
    }  # fmt: skip
    steps = history.best if is_gradual else 0
    return Result({**context.inputs["model"].facts, **facts, "trained_steps": steps}, observed)


def _loss(network: Network, objective: Objective, corpus: Corpus, params: GradualParams) -> float:
    """The selection loss of the network as it would be written now."""
    device = choose_device(params.device)
    module = network.module.to(device).eval()
    weights = Weights(dict(module.named_parameters()), network.stored, 0.0)
    with weights.as_written():
        return selection_loss(module, objective, corpus.selection, params, device)


def _counted(network: Network, targets: Mapping[str, Target]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts of a pruned checkpoint, as other methods state them, counted as it is stored."""
    found, zeros, sizes = network.tensors(), dict[str, int](), dict[str, int]()
    for name in targets:
        info = network.source.tensors.info(name)
        stored = found[name].detach().to(getattr(torch, NAMES[info.dtype]))
        zeros[name], sizes[name] = stored.numel() - int(stored.count_nonzero()), stored.numel()
    shares = {name: zeros[name] / sizes[name] for name in targets}
    facts = {
        "pruned_by": "gradual",
        "sparsity": round(sum(zeros.values()) / sum(sizes.values()), 6),
        "sparsity_by_weight": {name: round(share, 6) for name, share in shares.items()},
        "pruned_parameters": sum(sizes.values()),
    }
    return facts, {name: {"pattern": targets[name].label, "sparsity": shares[name]} for name in targets}
