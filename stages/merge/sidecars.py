"""The files beside the weights of a merge: tokenizer and its settings, chat template, licence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..model.checkpoint import (
    CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
    present,
    read_object,
)
from ..model.templates import KEY, TEMPLATE_FILE
from ..model.tokenizer import check_readable, check_tokenizer
from .templates import chosen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..base import Context
    from .models import Model
    from .recipe import Recipe
    from .vocabulary import Words

GENERATION_FILE = "generation_config.json"
ADDED_FILE = "added_tokens.json"
DECODER = "added_tokens_decoder"
TEMPLATE_FILES = (TEMPLATE_FILE, "chat_template.json")
ID_SUFFIX = "_token_id"


def with_token_ids(settings: Mapping[str, object], source: Mapping[str, object]) -> dict[str, object]:
    """Settings with the ids of special tokens that ``source``, of the tokenizer's own model, gives."""
    kept = {key: value for key, value in settings.items() if not key.endswith(ID_SUFFIX)}
    return {**kept, **{key: value for key, value in source.items() if key.endswith(ID_SUFFIX)}}


def write_sidecars(
    context: Context[Any],
    recipe: Recipe,
    models: Mapping[str, Model],
    words: Words | None,
    config: Mapping[str, object],
) -> None:
    """Writes all files but the weights.

    words: the tokens, where the recipe chooses them.  Raises IntakeError for a tokenizer that the tokenizers
    library does not read, or that has more tokens than the embedding rows.
    """
    donor = models[recipe.donor]
    source = models[words.start] if words else donor
    context.output.write_json(CONFIG_FILE, config)
    _write_generation(context, donor, source)
    template = _template(recipe, models)
    dropped = {CONFIG_FILE, GENERATION_FILE, *TOKENIZER_FILES}
    for path in donor.checkpoint.sidecars():
        if path.name not in dropped:
            context.output.copy_in(path, path.name)
    _write_tokenizer(context, source, words if words and words.is_changed else None, template)
    if template is not None:
        context.output.write_text(TEMPLATE_FILE, template)
    if words is not None:
        payload = context.output.payload
        check_tokenizer(payload, int(str(config["vocab_size"])))
        check_readable(payload / TOKENIZER_FILE, payload / TOKENIZER_FILE)


def _template(recipe: Recipe, models: Mapping[str, Model]) -> str | None:
    if recipe.chat_template is None:
        return None
    return chosen(recipe.chat_template, [models[name].checkpoint.directory for name in recipe.inputs()])


def _write_generation(context: Context[Any], donor: Model, source: Model) -> None:
    """How texts are generated: the donor's settings, with the special tokens of the tokenizer's model."""
    own, theirs = (present(each.checkpoint.directory, (GENERATION_FILE,)) for each in (donor, source))
    if not own:
        return
    if source is donor:
        context.output.copy_in(own[0], GENERATION_FILE)
        return
    ids = read_object(theirs[0]) if theirs else source.checkpoint.config
    context.output.write_json(GENERATION_FILE, with_token_ids(read_object(own[0]), ids))


def _write_tokenizer(context: Context[Any], source: Model, words: Words | None, template: str | None) -> None:
    """The tokenizer's files as they are, but for tokens that were added and a template that was chosen."""
    for path in present(source.checkpoint.directory, TOKENIZER_FILES):
        if template is not None and path.name in TEMPLATE_FILES:
            continue
        changed = _changed(path.name, words, template)
        if changed is None:
            context.output.copy_in(path, path.name)
        else:
            context.output.write_json(path.name, changed(read_object(path)))


def _changed(name: str, words: Words | None, template: str | None) -> Any:
    """What becomes of the content of a file; None where it stays."""
    if name == TOKENIZER_FILE and words is not None:
        return lambda _: words.tokens.file
    if name == ADDED_FILE and words is not None:
        own = words.models[words.start].ids
        return lambda before: {
            **before, **{token: number for token, number in words.tokens.ids.items() if token not in own},
        }  # fmt: skip
    if name == TOKENIZER_CONFIG_FILE and (words is not None or template is not None):

        def settings(before: dict[str, Any]) -> dict[str, Any]:
            after = {key: value for key, value in before.items() if template is None or key != KEY}
            if words is not None and DECODER in after:
                after[DECODER] = _decoder(words)
            return after

        return settings
    return None


def _decoder(words: Words) -> dict[str, object]:
    """Added tokens by id, as transformers keeps them beside the tokenizer."""
    return {
        str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
        for entry in words.tokens.added.values()
    }
