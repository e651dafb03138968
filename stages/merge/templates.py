"""Which chat template a merge has: one of those of its models, one by its name, or the text of one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..model import templates as model_templates

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .written import Place

AUTO = "auto"

# How each family writes a conversation, in the terms of its own tokens.
NAMED = {
    "chatml": (
        "{% for message in messages %}"
        "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}"
        "{% for message in messages %}"
        "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
        "{{ message['content'] | trim }}<|eot_id|>"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "alpaca": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
        "{% elif message['role'] == 'user' %}### Instruction:\n{{ message['content'] | trim }}\n\n"
        "{% else %}### Response:\n{{ message['content'] | trim }}{{ eos_token }}\n\n{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
    "exaone": (
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}[|system|][|endofturn|]\n{% endif %}"
        "[|{{ message['role'] }}|]{{ message['content'] }}"
        "{% if message['role'] != 'user' %}[|endofturn|]{% endif %}{{ '\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}[|assistant|]{% endif %}"
    ),
}  # fmt: skip


def check_named(place: Place) -> None:
    """Raises RecipeError for what is no name and no template, and for one that reaches out of a sandbox."""
    text = place.text()
    if text == AUTO or text in NAMED:
        return
    if "{" not in text:
        raise place.wrong("a chat template", f"write {AUTO}, {', '.join(NAMED)}, or the template itself")
    if reason := model_templates.fault(text):
        raise place.error(reason, "write a template that only formats its messages")


def chosen(chat_template: str, directories: Iterable[Path]) -> str | None:
    """The text of what a recipe calls its chat template.

    `auto` is the one that most models have, the first of them where several are as frequent, and None where
    no model has one.
    """
    if chat_template != AUTO:
        return NAMED.get(chat_template, chat_template)
    found = [
        next((text.strip() for _, text in model_templates.found_templates(each)), None)
        for each in directories
    ]
    counts = Counter(text for text in found if text)
    # most_common keeps the order of first occurrence among equals.
    return counts.most_common(1)[0][0] if counts else None
