"""Chat templates of merges: by name, by majority, or as they are written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from ingot.stages.merge.templates import NAMED, chosen
from ingot.stages.model.templates import environment, fault

if TYPE_CHECKING:
    from pathlib import Path

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Go"},
]
# As the models of these names were trained on them.
EXPECTED = {
    "chatml": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
    "<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|begin|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nGo<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "alpaca": "### Instruction:\nHi\n\n### Response:\nYes?</s>\n\n### Instruction:\nGo\n\n### Response:\n",
    "exaone": "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]Yes?[|endofturn|]\n[|user|]Go\n"
    "[|assistant|]",
}


@pytest.mark.parametrize("name", NAMED)
def test_a_named_template_writes_a_talk_as_its_family_does(name: str) -> None:
    assert fault(NAMED[name]) is None
    text = (
        environment()
        .from_string(NAMED[name])
        .render(messages=TALK, add_generation_prompt=True, bos_token="<|begin|>", eos_token="</s>")
    )
    assert text == EXPECTED[name]


def models(folder: Path, *templates: str | None) -> list[Path]:
    found = []
    for number, template in enumerate(templates):
        directory = folder / str(number)
        directory.mkdir()
        settings = {} if template is None else {"chat_template": template}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
        found.append(directory)
    return found


def test_auto_is_what_most_models_have_and_of_equals_the_first(tmp_path: Path) -> None:
    given = models(tmp_path, "{{ a }}", None, "{{ b }}", " {{ b }}\n")
    assert chosen("auto", given) == "{{ b }}"
    assert chosen("auto", given[:3]) == "{{ a }}"
    assert chosen("auto", given[1:2]) is None


def test_a_template_stays_as_it_is_written(tmp_path: Path) -> None:
    assert chosen("{{ messages }}\n", []) == "{{ messages }}\n"
