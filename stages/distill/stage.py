"""`distill`: a student, the model that comes in, learns from a teacher, another node of the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError, RecipeError
from ...artifacts.schema import param
from ..base import Context, Expansion, Result, Source, stage
from ..train.halves import ENCODER_LAYER_MAP, LAYER_MAP, halves
from ..train.params import SCHEDULES, TOOLS, TaughtParams, requirements

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..model.checkpoint import Checkpoint
    from ..model.families import Architecture
    from ..train.distillation import Distillation, Terms
    from ..train.network import Network
    from ..train.text import Corpus

TEACHER = "teacher"
# The weight of hidden states beside predictions: four times as much gave back as much where layers had lost
# what least squares leave, and less where their features had been trained for it.
HIDDEN = 5.0


@dataclass(frozen=True)
class DistillParams(TaughtParams):
    """Parameters of `distill`."""

    learning_rate: float = param(
        2e-4,
        minimum=0.0,
        doc="the highest of the run; twice that of fine-tuning, since a teacher's predictions are less noisy "
        "than a text; in short runs, half of it gives back more where pruning trained features itself, twice "
        "as much where it did not",
    )
    schedule: str = param(
        "linear",
        choices=SCHEDULES,
        doc="of the learning rate behind the warm-up; linear, which gave back a little more than cosine",
    )
    hidden: float | None = param(
        None,
        minimum=0.0,
        doc="weight of the error of hidden states, relative to their mean square; by default 5 for models "
        "that predict tokens and have the teacher's layers and width, so that each layer is told what it "
        "lost, 0 for others, 1 for encoders",
    )
    attention: float = param(
        0.0, minimum=0.0, doc="weight of the error of attention maps; 0, since they cost a slower attention"
    )
    layer_map: tuple[int, ...] | None = param(
        None,
        doc="for each of the student's layers the teacher's that it is like, where hidden or attention "
        "count; evenly spread by default, last to last; of an encoder-decoder those of the decoder",
    )
    encoder_layer_map: tuple[int, ...] | None = param(
        None, doc="the same of the encoder's layers of an encoder-decoder"
    )

    def __post_init__(self) -> None:
        """Raises RecipeError for values that do not go together."""
        super().__post_init__()
        for name in (LAYER_MAP, ENCODER_LAYER_MAP):
            if getattr(self, name) is not None and not (self.hidden or self.attention):
                raise RecipeError(f"{name} has no effect", fix="give hidden or attention a weight")
        if self.top_k and (self.hidden or self.attention):
            what = "top_k keeps predictions, and hidden states and attention need the teacher at every step"
            raise RecipeError(what, fix="leave top_k out")


def expand(values: Mapping[str, object], _directory: Path, _node: str) -> Expansion:
    """The parameters with the input's name in place of the teacher."""
    teacher = values.get(TEACHER)
    if teacher is None:
        return Expansion(values, {})  # it is then named under from:
    if not isinstance(teacher, str) or not teacher:
        raise RecipeError(f"{TEACHER}: {teacher!r} is not the name of a model")
    return Expansion({**values, TEACHER: TEACHER}, {TEACHER: Source(teacher, origin=TEACHER)})


def preflight(params: DistillParams, directories: Mapping[str, Path]) -> None:
    """Raises InputError for a pair that cannot be teacher and student."""
    from ..model.checkpoint import Checkpoint

    check_pair(Checkpoint.open(directories["model"]), Checkpoint.open(directories[TEACHER]), params)


def parameters(_params: DistillParams, source: Checkpoint) -> tuple[str, ...] | None:
    """What trains: weights, and what may take their states to the width of the teacher's."""
    from ..train.names import parameter_names

    names, model = parameter_names(source), source.architecture
    count = len(model.layers) + (len(model.encoder.layers) if model.encoder else 0)
    adapters = (f"objective.states.adapters.{number}.weight" for number in range(count))
    return None if names is None else (*names, *adapters)


@stage(
    "distill",
    params=DistillParams,
    inputs={"model": ("checkpoint",), TEACHER: ("checkpoint",)},
    output="checkpoint",
    version=1,
    determinism="seeded",
    tools=TOOLS,
    summary="Train a student on a teacher's predictions and features; never worse by the selection text",
    requires=requirements,
    expand=expand,
    preflight=preflight,
    parameters=parameters,
)
def run(context: Context[DistillParams]) -> Result:
    """Trains the checkpoint `model` against `teacher` and writes it in its own dtypes.

    Raises InputError as :func:`check_pair` does, DataError for a text that cannot be used, and StageError
    where the loss diverges.
    """
    from ..model.checkpoint import Checkpoint
    from ..train.checkpoint import train_checkpoint
    from ..train.network import Network
    from ..train.text import read_corpus

    student = Checkpoint.open(context.inputs["model"].path)
    teacher = Checkpoint.open(context.inputs[TEACHER].path)
    params = context.params
    check_pair(student, teacher, params)
    corpus = read_corpus(student, params, context.note)
    network = Network.load(student, dropout=params.dropout, attention=_attention(params))
    objective, taught = _objective(context, network, teacher, corpus)
    return train_checkpoint(
        context, network, objective, corpus, {"trained_by": "distill"}, {"reference_loss": taught}
    )


def check_pair(student: Checkpoint, teacher: Checkpoint, params: DistillParams) -> None:
    """Raises InputError for networks of different tasks and for different tokens, and for predictions of a
    network that makes none; RecipeError for a layer map that does not fit.
    """
    from ..train.teacher import require_comparable

    ours, theirs = student.architecture, teacher.architecture
    require_comparable(student, teacher)
    if ours.task == "encoder" and (params.alpha < 1 or params.top_k or params.hidden == 0):
        raise InputError(
            f"{ours.model_type} is an encoder and predicts no tokens",
            fix="it learns hidden states, and attention where asked for: leave alpha and top_k out",
        )
    halves(ours, theirs, params.layer_map, params.encoder_layer_map)


def _objective(
    context: Context[DistillParams], network: Network, teacher: Checkpoint, corpus: Corpus
) -> tuple[Distillation, float | None]:
    """The loss, and the teacher's own on the selection text, where it predicts tokens."""
    from ..model.calibration.calibrate import choose_device
    from ..model.torch_network import load_module
    from ..train.distillation import Distillation
    from ..train.objective import NextToken
    from ..train.processes import own_name
    from ..train.teacher_cache import Cache
    from ..train.trainer import selection_loss

    params, model, other = context.params, network.source.architecture, teacher.architecture
    terms = terms_of(params, model, other)
    device = choose_device(params.device)
    module = load_module(teacher.directory, other.task, attention=_attention(params), dropout=False).to(
        device
    )
    compared = halves(model, other, params.layer_map, params.encoder_layer_map)
    cache = Cache(context.job / own_name(TEACHER), corpus.training, params.top_k) if params.top_k else None
    objective = Distillation(terms, module, compared, cache, params.top_k)
    taught = None
    if terms.predictions:
        taught = selection_loss(module, NextToken(), corpus.selection, params, device)
    return objective, taught


def terms_of(params: DistillParams, student: Architecture, teacher: Architecture) -> Terms:
    """The loss's terms; hidden states count by default as far as one layer's mean the other's."""
    from ..train.distillation import Terms

    is_encoder = student.task == "encoder"
    are_alike = _shape(student) == _shape(teacher)
    hidden = params.hidden
    if hidden is None:
        hidden = 1.0 if is_encoder else HIDDEN if are_alike and not params.top_k else 0.0
    return Terms(
        params.divergence, params.temperature, params.alpha, hidden, params.attention, not is_encoder
    )


def _shape(model: Architecture) -> list[tuple[int, int]]:
    """Width and layers, of an encoder-decoder those of either half."""
    parts = (model.encoder, model) if model.encoder else (model,)
    return [(part.hidden, len(part.layers)) for part in parts]


def _attention(params: DistillParams) -> str | None:
    """The implementation of attention; only the plain one shows its maps."""
    return "eager" if params.attention else None
