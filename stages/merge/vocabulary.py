"""Whose tokens a merge has: the tokenizers of its models side by side, and the one that comes out.

The rules are those of mergekit's `tokenizer_source`: `base` and a model keep that tokenizer; `union` starts
from the base's, or the first model's, and adds what the others have beside it, tokens of their vocabularies
first, then their added tokens with their properties. Ids of the tokenizer that is started from stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..model.checkpoint import TOKENIZER_FILE, read_object
from ..model.tokenizer import token_ids
from .recipe import BASE, UNION

if TYPE_CHECKING:
    from .models import Model
    from .recipe import Recipe

ADDED = "added_tokens"
# What tokenizers makes of a token that is added by its text alone.
PLAIN: Mapping[str, object] = {
    "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False,
}  # fmt: skip


@dataclass(frozen=True)
class Tokens:
    """The tokens of one tokenizer. file: the content of tokenizer.json.  ids: token → id.

    added: the entries of added tokens by their text, in the order of the file.
    """

    file: Mapping[str, Any]
    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, object]]

    @staticmethod
    def of(model: Model) -> Tokens:
        """Those of a model; raises IntakeError for a tokenizer.json that is missing or malformed."""
        path = model.checkpoint.directory / TOKENIZER_FILE
        file = read_object(path)
        ids = {token: number for number, token in sorted(token_ids(file, str(path)))}
        entries: Any = file.get(ADDED) or []
        return Tokens(file, ids, {str(entry["content"]): entry for entry in entries})

    @property
    def rows(self) -> int:
        """How many rows an embedding of these tokens has."""
        return max(self.ids.values()) + 1

    def plus(self, entries: Sequence[Mapping[str, object]]) -> Tokens:
        """With more added tokens, each {content, and properties}; those of a new text get the next ids."""
        ids, added = dict(self.ids), dict(self.added)
        following = self.rows
        for entry in entries:
            token = str(entry["content"])
            if token not in ids:
                ids[token] = following
                following += 1
            added[token] = {**entry, "id": ids[token]}
        listed = sorted(added.values(), key=lambda entry: int(str(entry["id"])))
        return Tokens({**self.file, ADDED: listed}, ids, added)


@dataclass(frozen=True)
class Words:
    """The tokens of a merge's output and of its models, by input.

    start: the input whose tokenizer the output's was started from, so that its ids hold.  notes: what a
    person should know of the choice.
    """

    tokens: Tokens
    models: Mapping[str, Tokens]
    start: str
    notes: tuple[str, ...] = ()

    @property
    def is_changed(self) -> bool:
        """Whether tokens were added to the tokenizer that was started from."""
        return self.tokens is not self.models[self.start]


def merged_words(recipe: Recipe, models: Mapping[str, Model]) -> Words:
    """The tokens that the recipe's `tokenizer` asks for."""
    wanted = recipe.vocabulary
    if wanted is None:
        raise ValueError("the recipe chooses no tokenizer")
    own = {name: Tokens.of(model) for name, model in models.items()}
    start = recipe.donor if wanted.source in (UNION, BASE) else wanted.source
    found, notes = own[start], []
    if wanted.source == UNION:
        others = [name for name in own if name != start]
        plain, special = _union(found, {name: own[name] for name in others})
        for name in others:
            count = len(set(own[name].ids) - set(own[start].ids))
            if count:
                notes.append(
                    f"{count:,} tokens of {models[name].title} are beside those of {models[start].title}"
                )
        if differing := sorted(_differing(own)):
            what = f"{len(differing)} added tokens, such as {differing[0]!r}, have different properties"
            notes.append(f"{what}; the first model's are kept")
        if plain or special:
            found = found.plus([*plain, *special])
    if missing := [token for token in wanted.tokens if token not in found.ids]:
        found = found.plus([{"content": token, **PLAIN} for token in missing])
    return Words(found, own, start, tuple(notes))


def require_same_words(models: Mapping[str, Model], donor: str) -> tuple[str, ...]:
    """Raises InputError where an id is another token than in the donor's tokenizer; else, what to note."""
    words = {name: Tokens.of(model) for name, model in models.items()}
    theirs = {number: token for token, number in words[donor].ids.items()}
    notes = []
    for name, each in words.items():
        for token, number in each.ids.items():
            if theirs.get(number, token) != token:
                what = f"calls token {number} {token!r}, which is {theirs[number]!r} in {models[donor].title}"
                fix = "say whose tokens the output has: tokenizer_source: union, base or one of the models"
                raise models[name].refuse(what, fix)
        if more := sorted(set(each.ids) - set(words[donor].ids)):
            lacks = f"that the output's tokenizer, that of {models[donor].title}, lacks"
            what = f"{models[name].title} has {len(more)} tokens, such as {more[0]!r}, {lacks}"
            notes.append(f"{what}; tokenizer_source: union keeps them")
    return tuple(notes)


def _union(
    start: Tokens, others: Mapping[str, Tokens]
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """What is added: tokens of other vocabularies by their text, then other added tokens with properties."""
    every = [start, *others.values()]
    special: dict[str, Mapping[str, object]] = {}
    for each in every:
        for token, entry in each.added.items():
            special.setdefault(token, entry)
    plain: dict[str, dict[str, object]] = {}
    for each in others.values():
        for token in sorted(each.ids, key=each.ids.__getitem__):
            if token not in start.ids and token not in special:
                plain.setdefault(token, {"content": token, **PLAIN})
    return [*plain.values()], [dict(entry) for token, entry in special.items() if token not in start.added]


def _differing(words: Mapping[str, Tokens]) -> set[str]:
    """Added tokens that two tokenizers have with different properties."""
    seen: dict[str, dict[str, object]] = {}
    found = set()
    for each in words.values():
        for token, entry in each.added.items():
            properties = {key: value for key, value in entry.items() if key != "id"}
            if seen.setdefault(token, properties) != properties:
                found.add(token)
    return found
