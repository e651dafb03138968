"""Whether a network can be trained as a recipe asks, told from its headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import InputError

if TYPE_CHECKING:
    from ..model.checkpoint import Checkpoint

PREDICTING = ("causal-lm", "seq2seq-lm")


def require_predicting(stage: str, source: Checkpoint, fix: str | None = None) -> None:
    """Raises InputError for a network that predicts no next token, alone or from what an encoder read.

    fix: what to do instead; by default what encoders can be trained by.
    """
    model = source.architecture
    if model.task not in PREDICTING:
        raise InputError(
            f"{stage}: {model.model_type} is of the task {model.task}, which predicts no next token",
            fix=fix
            or f"fine-tune models of the tasks {' and '.join(PREDICTING)}; encoders are trained by distill, "
            "against a teacher",
        )
