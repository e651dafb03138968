"""Embeddings and heads on the tokens of a merge: the rows of each model, moved to where the output has them.

Where a model lacks a token, its row is what mergekit's rules give: as the recipe says for that token; else
that of the only model that has it; else the base's; else, where the base lacks it too, the mean of those of
all models that have it; zeros where none has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from ...artifacts.tensors import stored_elements, widened
from .models import HEADS, Model
from .operands import StoredOperand

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from .recipe import Recipe, TokenRule
    from .task import Operand, Stored
    from .vocabulary import Words

    Rows = npt.NDArray[np.int64]

# A row of another model: its input and its number. Several are averaged; none stands for zeros.
Donors = tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class Mapped:
    """Where the rows of one model's embeddings come from, by row of the output.

    own: its own row, int64 [rows], -1 where it is given one.  given: those rows.
    """

    own: Rows
    given: Mapping[int, Donors]

    def is_identity(self, rows: int) -> bool:
        """Whether nothing moves in an embedding of so many rows."""
        import numpy as np

        return len(self.own) == rows and np.array_equal(self.own, np.arange(rows))


class Embeddings:
    """Opens the tensors of a merge's models with their rows on the output's tokens. rows: how many it has."""

    def __init__(self, recipe: Recipe, models: Mapping[str, Model], words: Words) -> None:
        pad = (recipe.vocabulary.pad_to_multiple_of if recipe.vocabulary else None) or 1
        self.rows = -(-words.tokens.rows // pad) * pad
        self._models = models
        self._names = vocabulary_tensors(models[recipe.donor])
        rules = recipe.vocabulary.tokens if recipe.vocabulary else {}
        self._maps = _maps(words, self.rows, recipe.base, rules, models)

    def open(self, model: Model, tensor: str) -> Operand:
        """What reads a tensor of a model; an embedding, a head or a head's bias by the output's tokens."""
        operand = StoredOperand(model.checkpoint.tensors, model.name, model.tensors[tensor])
        if tensor not in self._names or self._maps[model.name].is_identity(model.vocabulary):
            return operand
        return RowsOperand(tensor, model, self._models, self._maps[model.name])


def vocabulary_tensors(model: Model) -> frozenset[str]:
    """The names of the tensors with an entry for every token: embeddings, heads, and biases of heads."""
    outside = (*model.layout.before, *model.layout.behind)
    found = {name for name in outside if name in (model.embedding, model.head) or name in HEADS}
    if model.checkpoint.outline.is_known:
        family = model.checkpoint.architecture
        bias = family.head.bias if family.head else None
        named = {*family.embeddings, *family.copies, bias, family.head_bias}
        # A head that is left from training belongs to no family, but goes with the tokens too.
        named |= {name for name in outside if name in model.unneeded}
        found |= {name for name in outside if name in named}
    else:
        found |= {name for name in outside if "position" not in name}
    return frozenset(name for name in found if _per_token(model.shape(name), model.vocabulary))


def _per_token(shape: tuple[int, ...], vocabulary: int) -> bool:
    return bool(shape) and (shape[0] == vocabulary or shape == (1, vocabulary))


class RowsOperand:
    """A tensor with a row for every token, its rows moved; an Operand. A bias is a tensor of rows of one."""

    def __init__(self, tensor: str, model: Model, models: Mapping[str, Model], mapped: Mapped) -> None:
        rows, (first, *rest) = len(mapped.own), model.shape(tensor)
        self.label = f"{model.name}:{model.tensors[tensor]}"
        self.shape = (rows, *rest) if first == model.vocabulary else (1, rows)
        self.stored: Stored | None = None
        self._mapped = mapped
        self._tensor = tensor
        self._model = model
        self._models = models
        self._width = 1
        for size in self.shape[1:] if first == model.vocabulary else ():
            self._width *= size

    def read(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Elements [start, stop) into ``out``, float32; see :class:`ingot.stages.merge.task.Operand`."""
        import numpy as np

        if start == stop:
            return
        first, last = start // self._width, -(-stop // self._width)
        own = self._mapped.own[first:last]
        rows = np.zeros((last - first, self._width), np.float32)
        kept = own >= 0
        rows[kept] = self._rows(self._model, own[kept])
        for row in np.flatnonzero(~kept):
            donors = self._mapped.given.get(first + int(row), ())
            for name, number in donors:
                rows[row] += self._rows(self._models[name], np.array([number]))[0]
            if len(donors) > 1:
                rows[row] /= np.float32(len(donors))
        skipped = start - first * self._width
        out.numpy()[:] = rows.reshape(-1)[skipped : skipped + stop - start]

    def release(self) -> None:
        """Lets the system take back the pages of the model's own tensor."""
        self._model.checkpoint.tensors.release(self._model.tensors[self._tensor])

    def _rows(self, model: Model, numbers: Rows) -> npt.NDArray[np.float32]:
        """Rows of a model's tensor, float32 [rows, width]: BF16 and F16 exactly, F64 rounded to nearest."""
        name = model.tensors[self._tensor]
        dtype = model.checkpoint.tensors.info(name).dtype
        stored = stored_elements(model.checkpoint.tensors.raw(name), dtype)
        return widened(stored.reshape(-1, self._width)[numbers], dtype)


def _maps(
    words: Words, rows: int, base: str | None, rules: Mapping[str, TokenRule], models: Mapping[str, Model]
) -> dict[str, Mapped]:
    """Of each model, which of its rows each row of the output is, and what stands where it has none."""
    import numpy as np

    own = {name: np.full(rows, -1, np.int64) for name in words.models}
    given: dict[str, dict[int, Donors]] = {name: {} for name in words.models}
    for token, row in words.tokens.ids.items():
        rule = rules.get(token)
        # A rule is checked even where every model has the token.
        donors = _donors(token, words, base, rule, models) if rule else None
        for name, tokens in words.models.items():
            number = tokens.ids.get(token, -1)
            if number >= 0 and not (rule and rule.force):
                own[name][row] = number
                continue
            if donors is None:
                donors = _donors(token, words, base, rule, models)
            given[name][row] = donors
    return {name: Mapped(own[name], given[name]) for name in words.models}


def _donors(
    token: str, words: Words, base: str | None, rule: TokenRule | None, models: Mapping[str, Model]
) -> Donors:
    if rule is not None and rule.kind == "zero":
        return ()
    if rule is not None and rule.model is not None:
        return ((rule.model, _ruled(token, words, rule, models[rule.model])),)
    having = tuple((name, each.ids[token]) for name, each in words.models.items() if token in each.ids)
    of_base = tuple(pair for pair in having if pair[0] == base)
    return of_base or having


def _ruled(token: str, words: Words, rule: TokenRule, model: Model) -> int:
    """The row that a rule names; raises InputError for one that its model does not have."""
    if rule.token_id is not None:
        if rule.token_id >= model.vocabulary:
            what = f"{model.title} has no token {rule.token_id}, which tokenizer.tokens.{token} asks for"
            raise InputError(what, fix=f"its embedding has {model.vocabulary} rows")
        return rule.token_id
    wanted = token if rule.kind == "model" else str(rule.token)
    found = words.models[model.name].ids.get(wanted)
    if found is None:
        what = f"{model.title} has no token {wanted!r}, which tokenizer.tokens.{token} takes from it"
        raise InputError(what, fix="name a model that has it, or {kind: model_token, model, token}")
    return found
