"""`prune.gradual`: the smallest entries go little by little, and training makes up for them in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.schema import param
from ..base import Context, Expansion, Result, stage
from ..train.checks import require_predicting
from ..train.params import TOOLS, TaughtParams, requirements
from ..train.teacher import check_teacher, named_models
from .choice import PruneParams
from .choice import preflight as preflight_choice

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..model.checkpoint import Checkpoint

TEACHER = "teacher"


@dataclass(frozen=True)
class GradualParams(PruneParams, TaughtParams):
    """Parameters of `prune.gradual`."""

    initial_sparsity: float = param(
        0.0, minimum=0.0, maximum=1.0, doc="share of each weight that goes before the first step; none"
    )
    ramp: float = param(
        0.5,
        minimum=0.0,
        maximum=1.0,
        doc="share of the steps behind which the last entries go; half, so that the other half recovers",
    )
    prune_every: int | None = param(
        None, minimum=1, doc="steps between two prunings; by default there are ten"
    )

    def __post_init__(self) -> None:
        """Raises RecipeError for values that do not go together."""
        TaughtParams.__post_init__(self)
        PruneParams.__post_init__(self)
        if self.initial_sparsity >= self.target.sparsity:
            what = f"initial_sparsity: {self.initial_sparsity} is not below {self.target.sparsity}, the end"
            raise RecipeError(what, fix="prune at once with prune.magnitude, and train with distill")
        if self.ema_decay:
            what = "ema_decay: a mean of weights over steps is not zero where the last of them is"
            raise RecipeError(what, fix="leave it out")
        if not self.keep_zeros:
            raise RecipeError("keep_zeros: false would let grow back what was pruned", fix="leave it out")


def expand(values: Mapping[str, object], _directory: Path, _node: str) -> Expansion:
    """The parameters with the input's name in place of the teacher."""
    return named_models(values, (TEACHER,))


def preflight(params: GradualParams, directories: Mapping[str, Path]) -> None:
    """Raises InputError for a network that predicts no next token and a teacher that cannot teach it, and
    RecipeError for weights that there are not.
    """
    from ..model.checkpoint import Checkpoint

    source, teacher = Checkpoint.open(directories["model"]), directories.get(f"{TEACHER}1")
    require_predicting(
        "prune.gradual", source, fix="prune it at once, with prune.sparsegpt or prune.magnitude"
    )
    preflight_choice(params, directories)
    check_teacher(params, source, Checkpoint.open(teacher) if teacher else None)


def parameters(_params: GradualParams, source: Checkpoint) -> tuple[str, ...] | None:
    """What trains."""
    from ..train.names import parameter_names

    return parameter_names(source)


@stage(
    "prune.gradual",
    params=GradualParams,
    inputs={"model": ("checkpoint",)},
    many={TEACHER: ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=TOOLS,
    summary="Set the smallest entries to zero step by step, training in between; never worse than at once",
    requires=requirements,
    expand=expand,
    preflight=preflight,
    parameters=parameters,
)
def run(context: Context[GradualParams]) -> Result:
    """Prunes the checkpoint `model` by the cubic schedule of arXiv:1710.01878 and writes it in its dtypes.

    Raises what :func:`preflight` does, DataError for a text that cannot be used, and StageError where the
    loss diverges.
    """
    from .gradual_training import prune_gradually

    preflight(context.params, {name: given.path for name, given in context.inputs.items()})
    return prune_gradually(context)
