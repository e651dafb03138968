"""Chat templates: those that reach out of a sandbox are refused, by reading them alone."""

from __future__ import annotations

import json
import shutil

import jinja2
import pytest
from ingot.artifacts.errors import IntakeError
from ingot.stages.model import templates

CHATS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m.content | trim }}{% endfor %}",
    (
        "{%- set ns = namespace(found=false) -%}{% for m in messages %}{% generation %}{{ m['content'] }}"
        "{% endgeneration %}{% if ns.found %}{% break %}{% endif %}{% endfor %}{{ raise_exception('x') }}"
    ),
    "{% macro f(x) %}{{ x | tojson(indent=4) }}{% endmacro %}{{ f(tools[0]) }}",
)
ESCAPES = {
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "'__subclasses__'",
    "{{ messages['__class__'] }}": "'__class__'",
    "{{ ''|attr('_' ~ '_class__') }}": "attr",
    "{{ '{0.__class__}'.format(messages) }}": "'{0.__class__}'",
    "{{ '\\x5f\\x5fclass__' }}": "'__class__'",
    "{{ _private }}": "'_private'",
    "{% include '/etc/passwd' %}": "loads other templates",
    "{% from 'x' import y %}": "loads other templates",
    "{{ " + "(" * 20_000: "cannot be parsed",
    "{{ (x": "cannot be parsed",
    "x" * ((1 << 20) + 1): "has more than",
}


@pytest.mark.parametrize("text", CHATS)
def test_the_templates_of_chat_models_pass(text):
    assert templates.fault(text) is None


@pytest.mark.parametrize(("text", "reason"), ESCAPES.items(), ids=range(len(ESCAPES)))
def test_a_template_that_reaches_out_of_a_sandbox_is_refused(text, reason):
    assert reason in templates.fault(text)


def test_a_template_is_parsed_and_never_rendered(monkeypatch):
    for name in ("from_string", "compile", "_generate"):
        monkeypatch.setattr(jinja2.Environment, name, None)
    assert templates.fault("{{ 'x' * 10 ** 10 }}{% for a in range(10 ** 18) %}{% endfor %}") is None


@pytest.mark.parametrize(
    "place", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json", "named"]
)
def test_templates_are_found_wherever_a_checkpoint_may_have_them(tiny_checkpoint, tmp_path, place):
    model = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model")
    text = "{{ x.__class__ }}"
    name = "tokenizer_config.json" if place == "named" else place
    if name.endswith(".jinja"):
        (model / name).write_text(text)
    else:
        (model / name).touch()
        old = json.loads((model / name).read_text() or "{}")
        value = [{"name": "default", "template": text}] if place == "named" else text
        (model / name).write_text(json.dumps({**old, "chat_template": value}))
    with pytest.raises(IntakeError, match=rf"the chat template in {name} reaches for '__class__'") as caught:
        templates.check_templates(model, tmp_path / "given")
    assert caught.value.where == str(tmp_path / "given" / name)
