"""What a training makes smaller: the contract of an objective, and the loss of the next token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows of a text, of one length by padding.

    ids: int64 [rows, length].  predicted: bool [rows, length], which tokens count as targets; never the
    first.  attended: bool [rows, length], False for padding; None where there is none.  which: int64 [rows],
    the numbers of the windows in their text.  sources: int64 [rows, source], what an encoder reads, and
    read: bool of that shape, False for padding; None where there is no encoder.
    """

    ids: torch.Tensor
    predicted: torch.Tensor
    attended: torch.Tensor | None
    which: torch.Tensor
    sources: torch.Tensor | None = None
    read: torch.Tensor | None = None

    @property
    def targets(self) -> torch.Tensor:
        """The tokens that count, int64 [predictions], in the order of the rows."""
        return self.ids[self.predicted]

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Of outputs [rows, length, width] those that predict the targets: [predictions, width]."""
        return outputs[:, :-1][self.predicted[:, 1:]]

    def call(self, network: torch.nn.Module, **options: Any) -> Any:
        """What a network of transformers gives for the batch."""
        if self.sources is not None and self.read is not None:
            # Padding stands behind what is predicted, where no target sees it.
            return network(
                input_ids=self.sources, attention_mask=self.read.long(), decoder_input_ids=self.ids, **options
            )
        attended = None if self.attended is None else self.attended.long()
        return network(input_ids=self.ids, attention_mask=attended, **options)


@dataclass(frozen=True, eq=False)
class Loss:
    """total: scalar with a gradient, summed over predicted tokens.  parts: what it is made of, by name."""

    total: torch.Tensor
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Objective(torch.nn.Module):
    """What is minimised. Its own parameters, if any, are trained along and thrown away."""

    def loss(self, network: torch.nn.Module, batch: Batch) -> Loss:
        """The loss of a batch, summed over its predicted tokens."""
        raise NotImplementedError

    def selection(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """What points are chosen by: scalar, summed over predicted tokens; that of the next token."""
        return next_token(network, batch)


class NextToken(Objective):
    """Cross-entropy of the tokens that come, in nat."""

    def loss(self, network: torch.nn.Module, batch: Batch) -> Loss:
        """The negative log-likelihood of the batch's targets."""
        return Loss(next_token(network, batch))


def next_token(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The negative log-likelihood of a batch's targets together, in nat: scalar float32."""
    logits = batch.predictions(batch.call(network, use_cache=False).logits)
    return functional.cross_entropy(logits.float(), batch.targets, reduction="sum")
