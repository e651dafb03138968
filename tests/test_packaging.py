"""The package as it is built: every folder is listed, typed and installable under the name `ingot`."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ROOMS = ("artifacts", "pipeline", "stages", "targets")
LEVEL = {"artifacts": 0, "targets": 1, "stages": 2, "pipeline": 3}
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "numpy", "scipy", "tokenizers", "huggingface_hub"}


def modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def test_the_listed_packages_are_the_folders():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = {"ingot"}
    for path in modules():
        if path.name == "__init__.py":
            found.add("ingot." + ".".join(path.parent.relative_to(ROOT).parts))
    assert listed == found


def test_every_folder_with_modules_is_a_package():
    for path in modules():
        assert (path.parent / "__init__.py").is_file(), path.parent


def test_files_that_are_not_modules_are_shipped():
    shipped = PROJECT["tool"]["setuptools"]["package-data"]
    # Sources of extensions go where they are built, which a checkout does beside them.
    built = (".c", *EXTENSION_SUFFIXES)
    for path in (ROOT / room for room in ROOMS):
        for file in path.rglob("*"):
            # A process that is killed while it keeps what it compiled leaves a file of any name there.
            if "__pycache__" in file.parts or not file.is_file() or file.name.endswith((".py", *built)):
                continue
            package = next(parent for parent in file.parents if (parent / "__init__.py").is_file())
            name = "ingot." + ".".join(package.relative_to(ROOT).parts)
            relative = file.relative_to(package)
            assert any(relative.match(pattern) for pattern in shipped.get(name, [])), file


def test_the_import_name_is_ingot_whatever_the_folder_is_called():
    ingot = importlib.import_module("ingot")
    assert ingot.__version__ == PROJECT["project"]["version"]
    assert (Path(str(ingot.__file__)).parent / "py.typed").is_file()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_for_and_imports_downwards(path):
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), "its first line must say what the file is for"
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = (*base, *(node.module or "").split("."))
            if target and target[0] in LEVEL:
                assert LEVEL[target[0]] <= LEVEL[package[0]], f"line {node.lineno} imports upwards"


@pytest.mark.parametrize("command", [["--help"], ["stages"], ["targets"], ["run", "--help"]])
def test_light_commands_load_no_heavy_library(command):
    code = f"""
import sys
from ingot.pipeline.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
found = {HEAVY!r} & sys.modules.keys()
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ci_runs_the_command_of_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    block = re.search(r"<!-- test command -->\n```sh\n(.+?)\n```", readme, re.DOTALL)
    assert block is not None
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    extracted = subprocess.run(
        ["sed", "-n", "/<!-- test command -->/,/^```$/p", "README.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()[2:-1]  # fmt: skip
    assert "\n".join(extracted) == block[1]
    assert "sed '1,2d;$d'" in script
    assert "pytest" in block[1]


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "bench").glob("*.py")), ids=lambda path: path.name)
def test_benchmarks_import_modules_that_exist(path: Path):
    imported = [
        node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    for module in (str(node.module) for node in imported):
        if module.split(".")[0] == "ingot":
            stem = ROOT.joinpath(*module.split(".")[1:])
            assert stem.is_dir() or stem.with_suffix(".py").is_file(), module
