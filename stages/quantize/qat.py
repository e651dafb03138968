"""`quantize.qat`: training under rounding, so that weights and scales make up for what codes cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.schema import param
from ..base import Context, Expansion, Result, stage
from ..model.quantized import WeightFormat
from ..train.params import TOOLS, TaughtParams, requirements
from ..train.teacher import named_models
from .formats import BITS, FLOAT_BITS, GROUP_SIZES, Choice, choose

if TYPE_CHECKING:
    from pathlib import Path

    from ..model.checkpoint import Checkpoint
    from ..model.families import Architecture
    from ..model.quantized import WeightSpec

TEACHER, ORIGINAL = "teacher", "original"


@dataclass(frozen=True)
class QatParams(TaughtParams):
    """Parameters of `quantize.qat`. Formats are for a checkpoint; codes that come in keep theirs."""

    bits: int | None = param(None, choices=BITS, doc="bits a weight; 4, where a checkpoint comes in")
    group_size: int | None = param(
        None,
        choices=GROUP_SIZES,
        doc="input features that share a scale, 0 for a whole row; 128, since training makes up for most of "
        "what 32 would gain",
    )
    sym: bool | None = param(
        None, doc="zero point fixed at 2^(bits-1); true, which is what every runtime takes"
    )
    lm_head_bits: int | None = param(
        None,
        choices=(*BITS, FLOAT_BITS),
        doc="bits of the output head, 16 leaves it; 8 since logits are sensitive",
    )
    embedding_bits: int | None = param(
        None,
        choices=(4, 8, FLOAT_BITS),
        doc="bits of the token embedding, 16 leaves it; 8 costs nothing",
    )
    ignore: tuple[str, ...] = param((), doc="patterns of weights to leave, such as *.down_proj.weight")
    overrides: Mapping[str, Mapping[str, object]] | None = param(
        None,
        doc="pattern of weights → bits, group_size or sym for them, such as "
        '{"*.down_proj.weight": {bits: 8}}; the last pattern that matches has the last word',
    )
    original: str | None = param(
        None,
        doc="the network whose codes come in, in floating point: a node such as load, a directory, or "
        "org/name@revision; its weights say which way each code was rounded. Without it weights start at "
        "what their codes stand for, which gave more back of what GPTQ loses",
    )
    learning_rate: float = param(
        3e-4,
        minimum=0.0,
        doc="the highest of the run; more than other training takes, as a weight has to come half a step of "
        "its grid before its code changes",
    )
    scale_learning_rate: float = param(
        4e-3,
        minimum=0.0,
        doc="the highest of scales, as a share of each, whatever their size; 0 leaves them",
    )
    learn_zeros: bool = param(
        False, doc="zero points of asymmetric groups learn too; whole numbers hardly ever move, so they stay"
    )

    def __post_init__(self) -> None:
        """Raises RecipeError for models that a target's own quantize names, which has no other inputs."""
        super().__post_init__()
        for name in (TEACHER, ORIGINAL):
            given = getattr(self, name)
            if given is not None and given != f"{name}1":
                raise RecipeError(
                    f"{name}: {given!r} is another input, and a target's quantize has one",
                    fix="make it a node of its own: stages: {rounded: {stage: quantize.qat, ...}}, "
                    "and targets: {NAME: {from: rounded}}",
                )

    def choice(self) -> Choice:
        """What is asked for of a checkpoint."""
        size = 128 if self.group_size is None else self.group_size
        sym = self.sym is not False

        def form(bits: int) -> WeightFormat | None:
            return None if bits == FLOAT_BITS else WeightFormat(bits, size, sym)

        return Choice(
            WeightFormat(self.bits or 4, size, sym),
            form(self.lm_head_bits or 8),
            form(self.embedding_bits or 8),
            self.ignore,
            self.overrides or {},
        )


def formats(params: QatParams, model: Architecture) -> Mapping[str, WeightSpec]:
    """How each weight of a checkpoint would be stored; raises RecipeError for patterns that match none."""
    return choose(model, params.choice())


def expand(values: Mapping[str, object], _directory: Path, _node: str) -> Expansion:
    """The parameters with names of inputs in place of the teacher and the original."""
    return named_models(values, (TEACHER, ORIGINAL))


def preflight(params: QatParams, directories: Mapping[str, Path]) -> None:
    """Raises InputError for inputs that do not go together, and RecipeError for what has no effect."""
    from .qat_checks import check_inputs

    check_inputs(params, directories)


def parameters(_params: QatParams, source: Checkpoint) -> tuple[str, ...] | None:
    """What trains: weights, those that are rounded by another name, and what each is rounded by."""
    from ..train.names import rounded_names

    return rounded_names(source)


@stage(
    "quantize.qat",
    params=QatParams,
    inputs={"model": ("checkpoint", "quantized-checkpoint")},
    many={TEACHER: ("checkpoint",), ORIGINAL: ("checkpoint",)},
    output="quantized-checkpoint",
    version=1,
    determinism="seeded",
    tools=TOOLS,
    summary="Train weights and scales under rounding; never worse by the selection text than its start",
    requires=requirements,
    formats=formats,
    expand=expand,
    preflight=preflight,
    parameters=parameters,
)
def run(context: Context[QatParams]) -> Result:
    """Trains the codes that come in, or those that a checkpoint is rounded to, and writes the quantized form.

    Raises what :func:`preflight` does, DataError for a text that cannot be used, StageError where the loss
    diverges or no linear weight would be quantized.
    """
    from .qat_training import train_codes

    preflight(context.params, {name: given.path for name, given in context.inputs.items()})
    return train_codes(context)
