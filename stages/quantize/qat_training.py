"""A training under rounding, from codes to codes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch.nn.utils import parametrize

from ...artifacts.tensors import TensorSource
from ..base import Result
from ..model.checkpoint import CONFIG_FILE, Checkpoint
from ..model.quantized import RECORD_FILE, QuantizedCheckpoint
from ..train.checkpoint import curves, fit
from ..train.hooks import KeepZeros
from ..train.lesson import lesson
from ..train.network import Network
from ..train.objective import Objective
from ..train.text import read_corpus
from ..train.weights import freeze
from .hessian import Levels
from .lsq import encode
from .placement import Rounding
from .qat_checks import MODEL, ORIGINAL, TEACHER
from .qat_start import from_checkpoint, from_codes
from .rounding import Made, write
from .weights import evidence_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from ..base import Context
    from ..train.objective import Batch, Loss
    from .qat import QatParams
    from .qat_start import Start

    Arrays = Mapping[str, npt.NDArray[np.generic]]

START, TRAINED, CODES = "start", "trained", "codes.safetensors"


def train_codes(context: Context[QatParams]) -> Result:
    """The work of `quantize.qat` on inputs that go together."""
    params, start = context.params, _start(context)
    corpus = read_corpus(start.source, params, context.note)
    network = Network.load(start.source, dropout=params.dropout)
    # What is rounded has a name of its own from here on: it stays in float32, as nobody stores it.
    stored = network.stored
    rounding = Rounding(network, start.specs, start.grids, learn_zeros=params.learn_zeros)
    hooks = [rounding, *_kept_zeros(network, start, rounding, params)]
    freeze(network.module, params.freeze)
    objective, taught = lesson(context, context.inputs.get(TEACHER), start.source, corpus)
    if not params.gradient_checkpointing:
        objective = _RoundedOnce(objective)

    def keep(directory: Path) -> None:
        rounding.settle()
        network.write_directory(directory)

    inner = replace(context, params=_with_groups(params, network))
    history = fit(inner, network.module, objective, corpus, keep, hooks=hooks, stored=stored)
    rounding.undo()
    network.write_directory(context.job / TRAINED)
    shutil.copyfile(context.inputs[MODEL].path / CONFIG_FILE, context.job / TRAINED / CONFIG_FILE)
    tensors, evidence = _codes(network, start, rounding)
    whole = {name: torch.from_numpy(value).contiguous() for name, value in tensors.items()}
    save_file(whole, context.job / CODES)
    made = Made(
        TensorSource.open([context.job / CODES]), evidence, start.transforms,
        {"trained_steps": history.best}, is_sparse=start.sparse is None or bool(start.sparse),
    )  # fmt: skip
    result = write(context, Checkpoint.open(context.job / TRAINED), start.specs, "mse", "qat", made)
    observed = {**result.observed, "training": curves(history), "reference_loss": taught}
    return Result(result.facts, observed)


def _start(context: Context[QatParams]) -> Start:
    given = context.inputs[MODEL]
    if not (given.path / RECORD_FILE).exists():
        return from_checkpoint(Checkpoint.open(given.path), context.params.choice())
    original = context.inputs.get(ORIGINAL)
    return from_codes(
        QuantizedCheckpoint.open(given.path), given.facts,
        Checkpoint.open(original.path) if original else None, context.job / START,
    )  # fmt: skip


def _kept_zeros(network: Network, start: Start, rounding: Rounding, params: QatParams) -> list[KeepZeros]:
    """What keeps the zeros of pruned weights; of codes alone, all that stand for zero in those."""
    if not params.keep_zeros:
        return []
    if start.sparse is None:
        pruned = network.pruned()
    else:
        names = {rounding.places[name].parameter for name in start.sparse & rounding.places.keys()}
        pruned = {name: rounding.latent(name) for name in sorted(names)}
    return [KeepZeros(pruned)] if pruned else []


class _RoundedOnce(Objective):
    """An objective that rounds each weight once a batch, however often the network asks for it."""

    def __init__(self, inner: Objective) -> None:
        super().__init__()
        self.inner = inner

    def loss(self, network: torch.nn.Module, batch: Batch) -> Loss:
        with parametrize.cached():
            return self.inner.loss(network, batch)

    def selection(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        with parametrize.cached():
            return self.inner.selection(network, batch)


def _with_groups(params: QatParams, network: Network) -> QatParams:
    """The parameters with the learning rates of scales and zero points, which a person's own may change."""
    trained = [name for name, each in network.module.named_parameters() if each.requires_grad]
    own = {
        f"*.{kind}": {"learning_rate": params.scale_learning_rate, "weight_decay": 0.0}
        for kind in ("ratio", "shift")
        if any(name.endswith(f".{kind}") for name in trained)
    }
    return replace(params, groups={**own, **(params.groups or {})})


def _codes(network: Network, start: Start, rounding: Rounding) -> tuple[Arrays, Mapping[str, Any]]:
    """What the trained weights round to, under the names they are stored by, and what became of each."""
    found, tensors, evidence = network.tensors(), dict[str, Any](), dict[str, Any]()
    for name, spec in start.specs.items():
        began = torch.from_numpy(start.source.tensors.float32(name))
        before, after = (
            value.T if spec.stored_in_out else value for value in (began, found[name].detach().cpu().float())
        )
        grid = rounding.grids[name].cpu().grid()
        codes = encode(after, grid, spec)
        size = spec.format.group_size or spec.shape[1]
        levels = Levels(grid.scales, grid.zeros, torch.arange(spec.shape[1]) // size, spec.format.bits)
        tensors |= parts_of(name, levels, codes)
        moved = (grid.scales / start.grids[name].scales - 1).abs().mean()
        evidence[name] = {
            **evidence_of(before, levels.decode(codes), spec.format),
            "changed_codes": float((codes != encode(before, start.grids[name], spec)).double().mean()),
            "scales_moved": float(moved),
        }
        start.source.tensors.release(name)
    return tensors, evidence
