"""What running and measuring a network needs to know of it, whatever its pieces are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .architecture import Task

if TYPE_CHECKING:
    from .architecture import Architecture


@dataclass(frozen=True)
class Outline:
    """A network from outside.

    hidden, vocabulary: sizes.  context: the longest sequence in tokens, for a `seq2seq-lm` the longest
    target, whose longest source is source_context and which begins with the token decoder_start.  layers: of
    an encoder-decoder, those of its decoder.  tied: the head is the token embedding, as the config says.
    is_known: it is of a family of the table, so that an :class:`Architecture` names its pieces.
    """

    model_type: str
    task: Task
    hidden: int
    vocabulary: int
    context: int
    layers: int
    tied: bool
    source_context: int | None = None
    decoder_start: int | None = None
    is_known: bool = True

    @staticmethod
    def of(model: Architecture) -> Outline:
        """The outline of a known network."""
        return Outline(
            model.model_type,
            model.task,
            model.hidden,
            model.vocabulary,
            model.context,
            len(model.layers),
            model.tied,
            model.encoder.context if model.encoder else None,
            model.decoder_start,
        )
