"""Chat messages as the text that a model was trained on: its checkpoint's own template, in a sandbox."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from ...artifacts.errors import DataError, IntakeError
from .checkpoint import TOKENIZER_CONFIG_FILE, read_object
from .templates import environment, fault, found_templates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


class Render(Protocol):
    """What a chat template makes of messages."""

    def __call__(self, messages: Sequence[Mapping[str, object]], where: str, *, opening: bool = False) -> str:
        """The text. opening: with what the template writes in front of a response that is to come."""


def renderer(directory: Path) -> Render:
    """``(messages, where) -> text`` by the chat template of a checkpoint; its first, where it has several.

    where: of the messages, for the DataError of a template that refuses them. Raises IntakeError for a
    checkpoint without a template and for a template that reaches out of a sandbox.
    """
    name, text = next(found_templates(directory), (None, ""))
    if name is None:
        raise IntakeError(
            "the checkpoint has no chat template, which messages need",
            where=str(directory),
            fix='give plain text: one {"text": "..."} a line',
        )
    if reason := fault(text):
        raise IntakeError(f"the chat template {reason}", where=str(directory / name))
    sandbox = environment()
    sandbox.filters["tojson"] = _to_json
    sandbox.globals["raise_exception"] = _refuse
    template, special = sandbox.from_string(text), _special_tokens(directory)

    def render(messages: Sequence[Mapping[str, object]], where: str, *, opening: bool = False) -> str:
        import jinja2

        try:
            return str(template.render(messages=messages, add_generation_prompt=opening, **special))
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise DataError(
                f"the model's chat template does not take these messages: {error}", where=where
            ) from None

    return render


def _special_tokens(directory: Path) -> dict[str, str]:
    path = directory / TOKENIZER_CONFIG_FILE
    if not path.is_file():
        return {}
    found = read_object(path)
    named = {name: found.get(name) for name in SPECIAL}
    texts = {name: each.get("content") if isinstance(each, dict) else each for name, each in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _to_json(value: Any, indent: int | None = None, **_options: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: object) -> None:
    import jinja2

    raise jinja2.TemplateError(str(message))
