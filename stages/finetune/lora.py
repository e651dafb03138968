"""`finetune.lora`: low-rank changes of maps learn to predict the next token, and are folded into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..train.params import TOOLS, TrainParams, requirements

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..model.checkpoint import Checkpoint


@dataclass(frozen=True)
class LoraParams(TrainParams):
    """Parameters of `finetune.lora`."""

    rank: int = param(
        8, minimum=1, doc="of each weight's change; 8 as in the paper, where more gained little"
    )
    alpha: float = param(
        16.0, minimum=0.0, doc="changes are multiplied by alpha / rank; twice the rank, as is usual"
    )
    learning_rate: float = param(
        5e-4, minimum=0.0, doc="the highest of the run; low-rank changes take more than whole weights do"
    )
    only: tuple[str, ...] = param(
        (),
        doc="patterns of weights that change, such as *.self_attn.*; where there are none, all maps of the "
        "layers, but for experts that the network holds in one tensor",
    )
    ignore: tuple[str, ...] = param((), doc="patterns of weights that do not change")
    write_adapter: bool = param(
        False, doc="also write the changes by themselves, as PEFT does, into the folder adapter of the output"
    )

    def __post_init__(self) -> None:
        """Raises RecipeError for values that do not go together."""
        super().__post_init__()
        if self.alpha == 0:
            raise RecipeError("alpha: 0 changes nothing", fix="leave the stage out")
        if self.freeze:
            raise RecipeError("freeze: low-rank changes train alone", fix="name weights in ignore")


def preflight(params: LoraParams, directories: Mapping[str, Path]) -> None:
    """Raises InputError for a network that predicts no next token, RecipeError for patterns of no weight."""
    from ..model.checkpoint import Checkpoint
    from ..model.named import matching
    from ..train.checks import require_predicting
    from ..train.names import HEAD, parameter_names

    source = Checkpoint.open(directories["model"])
    require_predicting("finetune.lora", source)
    names = parameter_names(source)
    if names is None:
        return
    # A head that is tied to the embedding is stored under the other's name alone.
    names = (*names, f"{HEAD}weight")
    for key, patterns in (("only", params.only), ("ignore", params.ignore)):
        for pattern in patterns:
            matching(names, pattern, f"finetune.{key}")


def parameters(_params: LoraParams, source: Checkpoint) -> tuple[str, ...] | None:
    """What trains: two matrices in the place of a weight."""
    from ..train.names import low_rank_names

    return low_rank_names(source)


@stage(
    "finetune.lora",
    params=LoraParams,
    inputs={"model": ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=TOOLS,
    summary="Train low-rank changes of the maps on the next token of a text, and fold them into the weights",
    requires=requirements,
    preflight=preflight,
    parameters=parameters,
)
def run(context: Context[LoraParams]) -> Result:
    """Trains the checkpoint `model` and writes it with its changes, in its own dtypes.

    Raises what `finetune.full` does, and RecipeError for patterns that match nothing, and for an adapter of a
    pruned model, whose zeros it could not keep.
    """
    import torch

    from ..model.checkpoint import Checkpoint
    from ..train.checkpoint import Change, train_checkpoint
    from ..train.checks import require_predicting
    from ..train.network import Network
    from ..train.objective import NextToken
    from ..train.text import read_corpus
    from .low_rank import adapt

    params = context.params
    source = Checkpoint.open(context.inputs["model"].path)
    require_predicting("finetune.lora", source)
    corpus = read_corpus(source, params, context.note)
    network = Network.load(source, dropout=params.dropout)
    pruned = network.pruned() if params.keep_zeros else {}
    if pruned and params.write_adapter:
        what = "write_adapter: this model is pruned, and an adapter cannot keep its zeros"
        raise RecipeError(what, fix="leave write_adapter out, or write keep_zeros: false")
    torch.manual_seed(context.seed)
    adapted = adapt(
        network.module, params.rank, params.alpha, params.only, params.ignore, network.stored, pruned
    )
    facts = {"trained_by": "finetune.lora", "rank": params.rank, "adapted_weights": len(adapted.changed)}
    change = Change(adapted.fold, tuple(pruned))
    result = train_checkpoint(context, network, NextToken(), corpus, facts, change=change)
    if params.write_adapter:
        adapted.write(context.output, params.rank, params.alpha, source.architecture.task)
    return result
