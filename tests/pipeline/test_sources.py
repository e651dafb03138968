"""The static import closure: against what Python's own parser finds, and what it must not hold."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import ingot
import pytest
from ingot.pipeline import sources
from ingot.stages import base

ROOT = Path(str(ingot.__file__)).parent
FOLDERS = ("artifacts", "stages", "targets", "pipeline")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = ["ingot", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def parsed_imports(path: Path) -> set[str]:
    """The Ingot modules that a file imports, by Python's parser; without those for type checkers."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if is_for_checkers(node):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            target = (
                importlib.util.resolve_name(f"{dots}{node.module or ''}", package)
                if dots
                else str(node.module)
            )
            target = target.rstrip(".")
            found.update({target, *(f"{target}.{alias.name}" for alias in node.names)})
    return {name for name in found if name.partition(".")[0] == "ingot" and sources.find(name) is not None}


def test_the_scan_finds_every_import_that_the_parser_finds() -> None:
    missed = {path: parsed_imports(path) - sources.imports(module_name(path)) for path in FILES}
    assert {path: names for path, names in missed.items() if names} == {}
    assert sum(len(parsed_imports(path)) for path in FILES) > len(FILES)


@pytest.mark.parametrize("name", sorted(base.BUILTIN))
def test_a_stages_closure_holds_itself_and_what_it_uses_and_no_other_stage(name: str) -> None:
    module = base.get(name).module
    closure = sources.closure(module)
    assert {module, "ingot.stages.base", "ingot.artifacts.errors"} <= closure
    family = module.split(".")[2]
    others = {"load", "quantize", "export", "validate"} - {family}
    assert not [
        each for each in closure if each.startswith(tuple(f"ingot.stages.{other}" for other in others))
    ]
    assert not [each for each in closure if each.startswith("ingot.pipeline")]
    assert "ingot" not in closure


def test_the_digest_follows_the_source_of_what_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "closurepkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "stage.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .typed import LIMIT\n\n"
        "def run():\n    from . import (  # lazily\n        helper,\n    )\n"
    )
    (package / "helper.py").write_text("LIMIT = 1\n")
    (package / "unused.py").write_text("LIMIT = 1\n")
    (package / "typed.py").write_text("LIMIT = 1\n")

    def digest() -> str:
        code = (
            "import closurepkg; from ingot.pipeline.sources import source_digest;"
            "print(source_digest('closurepkg.stage'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    first = digest()
    assert digest() == first
    (package / "unused.py").write_text("LIMIT = 2\n")
    (package / "typed.py").write_text("LIMIT = 2\n")
    assert digest() == first
    (package / "helper.py").write_text("LIMIT = 2\n")
    assert digest() != first


def test_a_module_that_does_not_exist_has_no_closure() -> None:
    with pytest.raises(ImportError):
        sources.closure("ingot.stages.nothing")
