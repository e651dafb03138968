"""Tokenizers and chat templates: tried under limits, parsed and never rendered."""

from __future__ import annotations

import json
import subprocess
import sys

import jinja2
import pytest
from ingot.artifacts.errors import IntakeError
from ingot.stages.load import probe, stage, templates

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
def test_templates_are_found_wherever_a_checkpoint_may_have_them(own_checkpoint, tmp_path, place):
    model = own_checkpoint()
    text = "{{ x.__class__ }}"
    name = "tokenizer_config.json" if place == "named" else place
    if name.endswith(".jinja"):
        (model.path / name).write_text(text)
    else:
        (model.path / name).touch()
        old = json.loads((model.path / name).read_text() or "{}")
        value = [{"name": "default", "template": text}] if place == "named" else text
        (model.path / name).write_text(json.dumps({**old, "chat_template": value}))
    with pytest.raises(IntakeError, match=rf"the chat template in {name} reaches for '__class__'") as caught:
        templates.check_templates(model.path, tmp_path / "given")
    assert caught.value.where == str(tmp_path / "given" / name)


def tokenizer_with(path, pattern):
    value = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps({**value, "pre_tokenizer": split}))


def test_a_tokenizer_that_panics_on_text_is_refused_in_one_line(own_checkpoint, capfd):
    path = own_checkpoint().path / "tokenizer.json"
    tokenizer_with(path, "(a+)+$")
    with pytest.raises(IntakeError, match=r"fails on plain text: .*retry-limit") as caught:
        stage.check_readable(path, path)
    assert "\n" not in caught.value.what
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("signal", ["SIGXCPU", "SIGKILL"])
def test_a_tokenizer_that_takes_too_long_is_refused(own_checkpoint, tmp_path, monkeypatch, signal):
    script = f"import os, signal; os.kill(os.getpid(), signal.{signal})"
    (tmp_path / "stuck.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(stage, "PROBE", "stuck")
    path = own_checkpoint().path / "tokenizer.json"
    with pytest.raises(IntakeError, match="longer on a page of text than anybody waits"):
        stage.check_readable(path, path)


def test_the_limit_on_processor_time_ends_a_tokenizer_that_hangs():
    script = (
        "import sys, pathlib, types\n"
        "from ingot.stages.load import probe\n"
        "probe.CPU_SECONDS = 1\n"
        "def hang(path):\n"
        "    while True: pass\n"
        "probe.fault = hang\n"
        "probe.main(pathlib.Path('x'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert -done.returncode in (24, 9)


def test_what_a_tokenizer_is_tried_on_is_a_second_or_less_for_a_sound_one(own_checkpoint):
    path = own_checkpoint().path / "tokenizer.json"
    assert probe.fault(path) == {}
    assert sum(map(len, probe.texts())) < 100_000
