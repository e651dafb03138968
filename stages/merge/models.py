"""The models of a merge from their headers: which tensors stand for one another, and who cannot join."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ...artifacts.errors import InputError
from ..model.checkpoint import CONFIG_FILE, Checkpoint
from ..model.dtypes import NAMES
from ..model.layout import Layout, layout_of

QUANTIZATION = "quantization_config"
CODES_FILE = "quantization.json"
# Heads that a tied network may have stored beside its embedding.
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")


@dataclass(frozen=True)
class Model:
    """A model of a merge.

    name: of its input, such as ``model1``.  title: how messages call it.  tensors: the name that a tensor has
    in the merge → its name here, without those that are copies of others.  layout: of the names in the merge.
    embedding, head: the names of these in the merge; head is None where no model has one of its own.
    unneeded: tensors that the network does not compute with, by their names here.
    """

    name: str
    title: str
    checkpoint: Checkpoint
    tensors: Mapping[str, str]
    layout: Layout
    is_tied: bool
    embedding: str | None
    head: str | None = None
    unneeded: frozenset[str] = frozenset()

    @property
    def vocabulary(self) -> int:
        """Rows of the token embedding."""
        return self.checkpoint.outline.vocabulary

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor by its name in the merge."""
        return self.checkpoint.tensors.info(self.tensors[tensor]).shape

    def refuse(self, what: str, fix: str) -> InputError:
        """The error for this model."""
        return InputError(f"{self.title} {what}", where=str(self.checkpoint.directory), fix=fix)


def open_models(
    checkpoints: Mapping[str, Checkpoint], titles: Mapping[str, str], donor: str
) -> dict[str, Model]:
    """The models by input, with their tensors called as the donor's are.

    Raises InputError for a quantized model, for another architecture than the donor's, for tensors that are
    not floating-point, and for tensors that one model has and another lacks.
    """
    first = checkpoints[donor]
    for name, each in checkpoints.items():
        _check_kind(each, titles[name], first, titles[donor])
    opened = {name: _open(name, titles[name], each) for name, each in checkpoints.items()}
    return _joined(opened, donor)


def _check_kind(each: Checkpoint, title: str, first: Checkpoint, donor: str) -> None:
    where = str(each.directory / CONFIG_FILE)
    if QUANTIZATION in each.config or (each.directory / CODES_FILE).exists():
        what = f"{title} is quantized, and codes cannot be merged"
        raise InputError(
            what, where=where, fix="merge the models it was made of, or put dequantize before it"
        )
    ours, theirs = (_kind(checkpoint) for checkpoint in (each, first))
    if ours != theirs:
        raise InputError(
            f"{title} is a {ours}, but {donor} is a {theirs}",
            where=where,
            fix="merge models of one architecture; siblings share the model they were tuned from",
        )
    for name in each.tensors.names():
        dtype = each.tensors.info(name).dtype
        if dtype not in NAMES and not _is_ignored(each, name):
            raise InputError(
                f"{title}: {name} is {dtype}, which cannot be merged",
                where=str(each.directory),
                fix="save the model with its weights in floating point",
            )


def _kind(checkpoint: Checkpoint) -> str:
    classes = checkpoint.config.get("architectures")
    name = classes[0] if isinstance(classes, list) and classes else None
    return str(name or checkpoint.outline.model_type)


def _is_ignored(checkpoint: Checkpoint, name: str) -> bool:
    """Whether the network does not compute with a tensor, as far as its family is known."""
    if not checkpoint.outline.is_known:
        return name.endswith("position_ids")
    return any(fnmatchcase(name, pattern) for pattern in checkpoint.architecture.ignored)


def _open(name: str, title: str, checkpoint: Checkpoint) -> Model:
    tied, known = checkpoint.outline.tied, checkpoint.outline.is_known
    model = checkpoint.architecture if known else None
    dropped = {*(HEADS if tied else ()), *(model.copies if model else ())}
    stored = [each for each in checkpoint.tensors.names() if each not in dropped]
    unneeded = frozenset(
        each
        for each in stored
        if _is_ignored(checkpoint, each) or checkpoint.tensors.info(each).dtype not in NAMES
    )
    embedding = model.embedding if model else _embedding(checkpoint)
    head = model.lm_head if model else next((each for each in HEADS if each in stored), None)
    tensors = {each: each for each in stored}
    return Model(
        name, title, checkpoint, tensors, layout_of(stored, model, head), tied, embedding, head, unneeded
    )


def _embedding(checkpoint: Checkpoint) -> str | None:
    """The token embedding of a network outside the table: a matrix with a row for every token, no head."""
    tensors, rows = checkpoint.tensors, checkpoint.outline.vocabulary
    found = [
        name
        for name in tensors.names()
        if name not in HEADS and len(tensors.info(name).shape) == 2 and tensors.info(name).shape[0] == rows
    ]
    return found[0] if len(found) == 1 else None


def _joined(models: dict[str, Model], donor: str) -> dict[str, Model]:
    """The models with the same names for their tensors.

    Tensors that no network needs stay where all have them. A tied head stands for the embedding where another
    model's head is a tensor of its own.
    """
    first = models[donor]
    head = next((each.head for each in models.values() if each.head is not None), None)
    renamed = {name: _renamed(each, first) for name, each in models.items()}
    everywhere = set.intersection(*(set(each) for each in renamed.values()))
    family = first.checkpoint.architecture if first.checkpoint.outline.is_known else None
    joined = {}
    for name, each in models.items():
        tensors = {
            key: stored
            for key, stored in renamed[name].items()
            if stored not in each.unneeded or (key in everywhere and _is_float(each.checkpoint, stored))
        }
        if head is not None and each.is_tied and each.embedding is not None:
            tensors[head] = each.embedding
        layout = layout_of(tensors, family, head)
        joined[name] = replace(each, tensors=tensors, layout=layout, embedding=first.embedding, head=head)
    return joined


def _is_float(checkpoint: Checkpoint, stored: str) -> bool:
    return checkpoint.tensors.info(stored).dtype in NAMES


def _renamed(model: Model, first: Model) -> dict[str, str]:
    """Names in the merge → names here. The same network is saved with and without a prefix, `model.`, say."""
    mine, theirs = set(model.tensors) - model.unneeded, set(first.tensors) - first.unneeded
    mine, theirs = ({name for name in names if name not in HEADS} for names in (mine, theirs))
    for prefix in sorted({f"{name.partition('.')[0]}." for name in mine ^ theirs}):
        if {name.removeprefix(prefix) for name in theirs} == mine:
            back = {name.removeprefix(prefix): name for name in theirs}
            return {back.get(name, name): name for name in model.tensors}
        if {name.removeprefix(prefix) for name in mine} == theirs:
            return {name.removeprefix(prefix): name for name in model.tensors}
    return {name: name for name in model.tensors}
