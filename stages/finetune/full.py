"""`finetune.full`: all weights learn to predict the next token of a text, or of the responses in chats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base import Context, Result, stage
from ..train.params import TOOLS, TrainParams, requirements

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..model.checkpoint import Checkpoint


@dataclass(frozen=True)
class FinetuneParams(TrainParams):
    """Parameters of `finetune.full`."""


def preflight(_params: FinetuneParams, directories: Mapping[str, Path]) -> None:
    """Raises InputError for a network that predicts no next token."""
    from ..model.checkpoint import Checkpoint
    from ..train.checks import require_predicting

    require_predicting("finetune.full", Checkpoint.open(directories["model"]))


def parameters(_params: FinetuneParams, source: Checkpoint) -> tuple[str, ...] | None:
    """What trains."""
    from ..train.names import parameter_names

    return parameter_names(source)


@stage(
    "finetune.full",
    params=FinetuneParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=TOOLS,
    summary="Train all weights on the next token of a text; never worse by the selection text than before",
    requires=requirements,
    preflight=preflight,
    parameters=parameters,
)
def run(context: Context[FinetuneParams]) -> Result:
    """Trains the checkpoint `model` and writes it in its own dtypes.

    Raises InputError for a network that predicts no next token, DataError for a text that cannot be used, and
    StageError where the loss diverges.
    """
    from ..model.checkpoint import Checkpoint
    from ..train.checkpoint import train_checkpoint
    from ..train.checks import require_predicting
    from ..train.network import Network
    from ..train.objective import NextToken
    from ..train.text import read_corpus

    source = Checkpoint.open(context.inputs["model"].path)
    require_predicting("finetune.full", source)
    corpus = read_corpus(source, context.params, context.note)
    network = Network.load(source, dropout=context.params.dropout)
    return train_checkpoint(context, network, NextToken(), corpus, {"trained_by": "finetune.full"})
