"""The registry: what is built in, what a file defines, and the nearest name of what does not exist."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from ingot.artifacts.errors import RecipeError
from ingot.stages.merge import method
from ingot.stages.merge.method import REQUIRED, load_method_file

if TYPE_CHECKING:
    from pathlib import Path

OWN = """
from ingot.stages.merge.method import Method, Parameter

def merge(task, blocks):
    def kernel(block):
        return block.read(task.inputs[0].operand).mul_(task.parameters["factor"])
    return kernel

METHOD = Method("{name}", merge, "Multiply", "", parameters=(Parameter("factor", "by what", default=2.0),))
"""


@pytest.mark.parametrize("name", method.BUILTIN)
def test_every_method_says_what_it_is_and_what_its_parameters_mean(name):
    found = method.get(name)
    assert found.name == name
    assert found.summary
    for parameter in found.parameters:
        assert parameter.doc
        assert (
            parameter.default is REQUIRED
            or parameter.default is None
            or isinstance(parameter.default, parameter.kind)
        )
        assert found.parameter(parameter.name) is parameter


def test_reading_declarations_imports_nothing_heavy():
    script = (
        "import sys; from ingot.stages.merge import method; [method.get(name) for name in method.BUILTIN]; "
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_unknown_method_or_parameter_is_told_the_nearest():
    with pytest.raises(RecipeError, match=r"there is no merge method 'task_aritmetic'.*task_arithmetic"):
        method.get("task_aritmetic")
    with pytest.raises(RecipeError, match=r"ties has no parameter 'densty'.*density"):
        method.get("ties").parameter("densty")


class TestFiles:
    def own(self, folder: Path, text: str) -> Path:
        path = folder / "own.py"
        path.write_text(text)
        return path

    def test_a_file_defines_a_method(self, tmp_path, stored, monkeypatch):
        from .conftest import carry_out, task_of

        found = load_method_file(self.own(tmp_path, OWN.format(name="doubled")))
        monkeypatch.setattr(method, "get", lambda name: {"doubled": found}[name])
        assert carry_out(task_of("doubled", [stored(torch.tensor([1.0, 3.0]))])).tolist() == [2.0, 6.0]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("x = 1", "own.py defines no merge method"),
            ("import nothing_of_the_kind", "cannot be read: ModuleNotFoundError"),
            ("raise SystemExit(3)", "cannot be read: SystemExit: 3"),
            ("def broken(:", "cannot be read: SyntaxError"),
            (OWN.format(name="ties"), "calls its merge method 'ties', which exists"),
        ],
    )
    def test_one_that_does_not_is_refused(self, tmp_path, text, message):
        with pytest.raises(RecipeError, match=message):
            load_method_file(self.own(tmp_path, text))

    def test_one_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(RecipeError, match=r"own\.py is no Python file"):
            load_method_file(tmp_path / "own.py")
