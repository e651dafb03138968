"""Families that installed distributions add by entry points."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import IntakeError, RequirementError
from ingot.stages.load.intake import inspect_source
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.families import architecture, names, plugin_versions

if TYPE_CHECKING:
    from collections.abc import Callable

PLUGIN = Path(__file__).parents[2] / "data" / "plugin"


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs the plugin `ingot_toy` the way a third party's is found: its folder is on the path."""
    monkeypatch.syspath_prepend(PLUGIN)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution with one family: ``(entry point's value, code of its module, model_type)``."""

    def install(value: str, code: str, name: str = "odd") -> None:
        about = tmp_path / "odd-2.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 2.0\n")
        (about / "entry_points.txt").write_text(f"[ingot.families]\n{name} = {value}\n")
        (tmp_path / "odd_families.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)

    return install


@pytest.fixture
def toy_checkpoint(tiny_checkpoint: Any, tmp_path: Path) -> Path:
    """A tiny Llama that calls itself a toy_llama."""
    directory = tmp_path / "toy"
    shutil.copytree(tiny_checkpoint("llama"), directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "toy_llama", "toy_size": config.pop("hidden_size")}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_an_installed_family_describes_its_checkpoints(
    toys: None, toy_checkpoint: Path, tiny_checkpoint: Any
) -> None:
    ours = Checkpoint.open(toy_checkpoint).architecture
    assert ours.model_type == "toy_llama"
    assert ours.linears == Checkpoint.open(tiny_checkpoint("llama")).architecture.linears
    assert inspect_source(toy_checkpoint).model_type == "toy_llama"


def test_without_the_distribution_its_model_type_is_unknown(toy_checkpoint: Path) -> None:
    with pytest.raises(IntakeError, match="'toy_llama' is not a known architecture"):
        inspect_source(toy_checkpoint)


def test_names_and_messages_include_what_is_installed(toys: None) -> None:
    assert "toy_llama" in names()
    with pytest.raises(IntakeError) as caught:
        architecture({"model_type": "toy_lama"}, "config.json")
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("did you mean toy_llama?")


def test_the_version_of_a_distribution_that_adds_a_family_is_known(toys: None) -> None:
    assert plugin_versions()["ingot-toy"] == "1.0"


def test_a_family_of_ingot_itself_is_not_replaced(installed: Callable[..., None]) -> None:
    installed("odd_families:odd", "odd = None", "gpt2")
    about = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 9}
    assert architecture(about, "config.json").model_type == "gpt2"


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ("odd_families:odd", "import no_such_module", "does not load: No module named 'no_such_module'"),
        ("odd_families:even", "odd = 1", "does not load: module 'odd_families' has no attribute 'even'"),
        ("odd_families:odd", "odd = lambda reader: {}", "gives no Architecture"),
    ],
)
def test_an_installed_family_that_cannot_be_used_is_named(
    value: str,
    code: str,
    message: str,
    installed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    installed(value, code)
    monkeypatch.delitem(sys.modules, "odd_families", raising=False)
    with pytest.raises(RequirementError, match=message) as caught:
        architecture({"model_type": "odd"}, "config.json")
    assert caught.value.what.startswith(f"the family odd ({value}) ")
