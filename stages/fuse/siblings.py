"""Two checkpoints of one architecture, tensor beside tensor: what one changed in the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from ..model.checkpoint import CONFIG_FILE, Checkpoint
from ..model.dtypes import NAMES
from ..model.families import Architecture, Linear, architecture

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

TIED_KEY = "tie_word_embeddings"


@dataclass(frozen=True)
class Siblings:
    """A model and the base that it was finetuned from.

    names: the tensors of both that hold weights; an output head that is tied in both is none of them.
    linears: by tensor name.  head: what an output head of its own is called, or would be.  root: what stands
    before the network's own names in transformers, and does not in its tensors'.
    """

    model: Checkpoint
    base: Checkpoint
    names: tuple[str, ...]
    linears: Mapping[str, Linear]
    head: str | None
    root: str

    @staticmethod
    def of(model: Path, base: Path) -> Siblings:
        """Opens both; raises InputError where a tensor of one is missing in the other, or misshaped."""
        left, right = Checkpoint.open(model), Checkpoint.open(base)
        network = left.architecture
        if network.model_type != right.architecture.model_type:
            what = f"the model is a {network.model_type}, its base a {right.architecture.model_type}"
            raise InputError(what, fix="give the base that the model was finetuned from")
        untied = left if not left.outline.tied else right
        linears = {each.name: each for each in (*untied.architecture.linears, *untied.architecture.gates)}
        names, root = tuple(_weights(untied)), _root(network, untied)
        found = Siblings(left, right, names, linears, _head(untied), root)
        for name in found.names:
            _check(found, name)
        return found

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one in both."""
        return self.model.outline.tied and self.base.outline.tied

    def module(self, name: str) -> str | None:
        """The module whose weight or bias a tensor is, as transformers calls it; None for other tensors."""
        stem, _, part = name.rpartition(".")
        if part not in ("weight", "bias"):
            return None
        return stem if name == self.head else self.root + stem

    def read(self, name: str) -> tuple[Floats, Floats]:
        """A tensor of the base, and what the model has more, both float32 as they are stored."""
        before = self.base.tensors.float32(self.stored(self.base, name))
        change = self.model.tensors.float32(self.stored(self.model, name))
        change -= before
        return before, change

    def release(self, name: str) -> None:
        """Lets the system take back the memory that reading brought in."""
        for checkpoint in (self.base, self.model):
            checkpoint.tensors.release(self.stored(checkpoint, name))

    def stored(self, checkpoint: Checkpoint, name: str) -> str:
        """The tensor that plays the part of ``name``: for a head that is tied, the embedding."""
        model = checkpoint.architecture
        return model.embedding if model.tied and name == self.head else name


def _head(checkpoint: Checkpoint) -> str | None:
    """What the output head of a network would be called that has one of its own."""
    model = checkpoint.architecture
    if not model.tied or model.task != "causal-lm":
        return model.lm_head
    config = {**checkpoint.config, TIED_KEY: False}
    where = str(checkpoint.directory / CONFIG_FILE)
    return architecture(config, where, checkpoint.tensors.names()).lm_head


def _weights(checkpoint: Checkpoint) -> list[str]:
    """The tensors that a network computes with; a tied head that is stored again is none."""
    tensors, model = checkpoint.tensors, checkpoint.architecture
    copies = {*model.copies, *([_head(checkpoint)] if model.tied else [])}
    return [name for name in tensors.names() if tensors.info(name).dtype in NAMES and name not in copies]


def _check(pair: Siblings, name: str) -> None:
    shapes = []
    for label, checkpoint in (("the model", pair.model), ("its base", pair.base)):
        stored = pair.stored(checkpoint, name)
        if stored not in checkpoint.tensors:
            raise InputError(f"{label} has no {name}", fix="give two checkpoints of one architecture")
        shapes.append(checkpoint.tensors.info(stored).shape)
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{name} is {list(shapes[0])} in the model and {list(shapes[1])} in its base",
            fix="give the base that the model was finetuned from; a vocabulary that grew has no difference",
        )


def _root(network: Architecture, checkpoint: Checkpoint) -> str:
    """The prefix that the network has in transformers, and its tensors do not have."""
    if network.task == "encoder":
        return ""
    usual = architecture(checkpoint.config, str(checkpoint.directory / CONFIG_FILE)).embedding
    return usual.removesuffix(network.embedding)
