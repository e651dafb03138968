"""Chats are rendered as transformers renders them, and refused in words."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import DataError, IntakeError
from ingot.stages.model.chat import renderer

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": "Where is\nthe “mill”?"},
    {"role": "assistant", "content": "By the river."},
]
TEMPLATES = (
    (
        "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'user' %}\n<u>{{ m['content'] | trim }}\n"
        "  {% endif %}\n{% endfor %}{{ eos_token }}"
    ),
    (
        "{% for m in messages %}{{ m | tojson }}{{ m.content | tojson(indent=2) }}{% if loop.index == 2 %}"
        "{% break %}{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    ),
    (
        "{%- for m in messages -%}{% generation %}{{ m.role.upper() }}: {{ m.content }}{% endgeneration %}"
        "{%- endfor -%}"
    ),
)


@pytest.fixture
def checkpoint(tiny_checkpoint: Any, tmp_path: Path) -> Any:
    """``(template, file) -> directory`` of a checkpoint that has it there."""

    def make(template: str, file: str = "chat_template.jinja") -> Path:
        directory = tmp_path / "chat"
        shutil.copytree(tiny_checkpoint("llama"), directory, dirs_exist_ok=True)
        if file.endswith(".jinja"):
            (directory / file).write_text(template)
        else:
            path = directory / file
            path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
        return directory

    return make


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_chat_reads_as_transformers_renders_it(template: str, file: str, checkpoint: Any) -> None:
    import transformers

    directory = checkpoint(template, file)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    expected = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    assert renderer(directory)(MESSAGES, "chat.jsonl:1") == expected


def test_a_template_that_refuses_messages_says_why_and_where(checkpoint: Any) -> None:
    render = renderer(checkpoint("{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(DataError, match=r"roles must alternate \(chat\.jsonl:3\)"):
        render(MESSAGES, "chat.jsonl:3")


def test_a_checkpoint_without_a_template_is_refused(tiny_checkpoint: Any) -> None:
    with pytest.raises(IntakeError, match="no chat template"):
        renderer(tiny_checkpoint("llama"))


def test_a_template_that_reaches_out_of_the_sandbox_is_never_rendered(checkpoint: Any) -> None:
    with pytest.raises(IntakeError, match="__class__"):
        renderer(checkpoint("{{ ''.__class__ }}"))
