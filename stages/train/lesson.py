"""What a network is trained by where there may be a teacher or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..model.calibration.calibrate import choose_device
from ..model.torch_network import load_module
from .distillation import Distillation, Terms
from .objective import NextToken, Objective
from .teacher_cache import Cache
from .trainer import selection_loss

if TYPE_CHECKING:
    from ...artifacts.manifest import Artifact
    from ..base import Context
    from ..model.checkpoint import Checkpoint
    from .params import TaughtParams
    from .text import Corpus


def lesson(
    context: Context[Any], teacher: Artifact | None, student: Checkpoint, corpus: Corpus
) -> tuple[Objective, float | None]:
    """The next token's loss or, where there is a teacher, that against its predictions, and its own loss on
    the text that chooses.
    """
    if teacher is None:
        return NextToken(), None
    params: TaughtParams = context.params
    device = choose_device(params.device)
    module = load_module(teacher.path, student.architecture.task, attention=None, dropout=False).to(device)
    terms = Terms(params.divergence, params.temperature, params.alpha, hidden=0.0, attention=0.0)
    cache = Cache(context.job / "teacher", corpus.training, params.top_k) if params.top_k else None
    taught = selection_loss(module, NextToken(), corpus.selection, params, device)
    return Distillation(terms, module, cache=cache, top_k=params.top_k), taught
