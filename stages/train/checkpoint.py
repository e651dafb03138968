"""Training as a stage: a checkpoint comes in, is trained by an objective, and goes out in its own form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...artifacts.digest import digest_json
from ...artifacts.schema import to_plain
from ..base import Result
from .hooks import KeepZeros
from .processes import leave_if_helper, together
from .trainer import Diverged, Setup, train
from .weights import freeze

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from ..base import Context
    from .hooks import Hook
    from .journal import History
    from .network import Network
    from .objective import Objective
    from .text import Corpus

# Points of a curve that are kept: more than a page shows.
SHOWN_POINTS = 400
LAST_GOOD = "last-good"
DIGITS = 6


@dataclass(frozen=True)
class Change:
    """What stands in the place of weights while they train. undo: makes weights of it again.

    kept: the weights whose zeros it keeps.
    """

    undo: Callable[[], None]
    kept: tuple[str, ...] = ()


def train_checkpoint(
    context: Context[Any],
    network: Network,
    objective: Objective,
    corpus: Corpus,
    facts: Mapping[str, object],
    observed: Mapping[str, object] | None = None,
    *,
    change: Change | None = None,
) -> Result:
    """Trains ``network`` and writes it; the stage's result, with the curves of the training.

    facts, observed: what the stage says of it beside that.  change: what was done to the network so that
    something else than its weights trains. Raises Diverged as :func:`.trainer.train` does;
    the best point is then in the job's directory, as a checkpoint.
    """
    params, kept = context.params, change.kept if change else ()
    hooks: list[Hook] = []
    if change is None:
        freeze(network.module, params.freeze)
        if params.keep_zeros and (pruned := network.pruned()):
            hooks, kept = [KeepZeros(pruned)], tuple(pruned)

    def keep(directory: Path) -> None:
        if change:
            change.undo()
        network.write_directory(directory)

    stored = {} if change else network.stored
    history = fit(context, network.module, objective, corpus, keep, hooks=hooks, stored=stored)
    if change:
        change.undo()
    moved = network.write(context.output)
    source = context.inputs["model"]
    zeros = {"sparsity_kept": sorted(kept)} if kept else {}
    return Result(
        {**source.facts, **facts, "trained_steps": history.best, **zeros},
        {"training": curves(history), "moved": _rounded(moved), **(observed or {})},
    )


def fit(
    context: Context[Any],
    module: Any,
    objective: Objective,
    corpus: Corpus,
    keep: Callable[[Path], None],
    *,
    hooks: Sequence[Hook] = (),
    stored: Mapping[str, torch.dtype] = MappingProxyType({}),
    first_result: int = 0,
) -> History:
    """Trains a module of transformers as the stage's parameters say; see :class:`.trainer.Setup`.

    keep: writes the network as it is into a directory. Raises Diverged as :func:`.trainer.train` does, when
    the best point has been kept in the job's directory.
    """
    setup = Setup(
        module, objective, corpus, context.params, context.job, fingerprint(context, corpus), context.seed,
        max(1, context.threads // context.params.processes), context.progress, hooks, stored, first_result,
    )  # fmt: skip
    try:
        with together(context):
            history = train(setup)
    except Diverged as error:
        leave_if_helper()
        good = context.job / LAST_GOOD
        keep(good)
        raise Diverged(
            error.what, where=str(good), fix=f"{error.fix}; that directory has the best point"
        ) from None
    leave_if_helper()
    if history.best == 0:
        context.note("training found nothing better than the weights it began with, which are returned")
    return history


def fingerprint(context: Context[Any], corpus: Corpus) -> str:
    """Of all that decides how a training goes."""
    import accelerate
    import torch
    import transformers

    inputs = {name: each.digest for name, each in context.inputs.items()}
    return digest_json({
        "corpus": corpus.digest, "params": to_plain(context.params, key_only=True), "seed": context.seed,
        "inputs": inputs, "torch": torch.__version__, "transformers": transformers.__version__,
        "accelerate": accelerate.__version__, "threads": context.threads,
    })  # fmt: skip


def curves(history: History) -> dict[str, object]:
    """A training as a page shows it: means over neighbouring steps where there are many, in nats a token."""
    width = math.ceil(max(1, len(history.steps)) / SHOWN_POINTS)
    pieces = [history.steps[at : at + width] for at in range(0, len(history.steps), width)]
    losses = [[piece[-1][0], _mean(step[1] for step in piece)] for piece in pieces]
    return {
        "loss": _rounded_rows(losses),
        "learning_rate": _rounded_rows([[piece[-1][0], piece[-1][2]] for piece in pieces]),
        "selection": _rounded_rows(history.selection),
        "best": history.best,
        "steps": len(history.steps),
        "parts": {
            name: [round(_mean(values[at : at + width]), DIGITS) for at in range(0, len(values), width)]
            for name, values in history.parts.items()
        },
    }


def _mean(values: Any) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _rounded_rows(rows: list[list[Any]]) -> list[list[Any]]:
    return [[row[0], None if row[1] is None else float(f"{row[1]:.{DIGITS}g}")] for row in rows]


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}
