"""What texts cost networks: those that a search chooses by, and those that show what a merge did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model.calibration.loss import text_loss
from ..model.calibration.samples import Samples, take
from ..model.calibration.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..base import Context
    from ..model.blocks.tensors import Readable
    from ..model.families import Architecture
    from .models import Model

MB = 1_000_000
# Megabytes of activations that are held in memory, where no parameter says.
BUDGET = 1024


class HeldOut:
    """Texts in the tokens of one model, ``donor``, for networks of its vocabulary.

    kind: what the texts are for, in messages. Raises InputError for a model that predicts no next token.
    """

    def __init__(
        self, context: Context[Any], donor: Model, texts: Sequence[str], window: int, kind: str
    ) -> None:
        budget = getattr(context.params, "activation_budget_mb", BUDGET)
        self._shelf = Shelf(budget * MB, context.job)
        self._threads = context.threads
        self._donor, self._texts, self._window, self._kind = donor, texts, window, kind
        self._samples: dict[int, list[Samples]] = {}
        known = donor.checkpoint.outline.is_known
        if not known or donor.checkpoint.architecture.task == "encoder":
            what = "is of no family whose next tokens are known" if not known else "predicts no next token"
            raise donor.refuse(f"{what}, so a text tells nothing of a merge", f"leave out the {kind} texts")

    def losses(self, model: Architecture, tensors: Readable, windows: int) -> tuple[float, ...]:
        """The mean loss of each text in a network, of so many windows each, nats a token."""
        return tuple(
            text_loss(model, tensors, taken.batches, self._shelf, self._threads).mean
            for taken in self._taken(windows)
        )

    def _taken(self, windows: int) -> list[Samples]:
        if windows not in self._samples:
            checkpoint = self._donor.checkpoint
            self._samples[windows] = [
                take(
                    Path(text),
                    checkpoint.directory,
                    checkpoint.architecture,
                    self._window,
                    windows,
                    self._kind,
                )
                for text in self._texts
            ]
        return self._samples[windows]
