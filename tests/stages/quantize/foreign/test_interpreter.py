"""Other environments: what they have is read from their files, what they lack is named with its remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ingot.stages.quantize.foreign.interpreter import Library, installed, requirements, versions

LIBRARY = Library("some-quantizer", ">=0.14,<0.15", ("torch",))


@pytest.fixture(autouse=True)
def _forget() -> None:
    installed.cache_clear()


def environment(root: Path, packages: dict[str, str], site: str = "lib/python3.10/site-packages") -> str:
    """A folder laid out as an environment, whose interpreter would tell on whoever runs it."""
    (root / "bin").mkdir(parents=True)
    python = root / "bin" / "python"
    python.write_text(f"#!/bin/sh\ntouch {root}/was-run\n")
    python.chmod(0o755)
    for name, version in packages.items():
        info = root / site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(python)


def test_versions_are_read_without_running_anything_of_the_environment(tmp_path: Path) -> None:
    python = environment(tmp_path, {"Some_Quantizer": "0.14.2", "torch": "2.13.0"})
    assert versions(LIBRARY, python) == {
        "some-quantizer": "0.14.2",
        "some-quantizer python": "3.10",
        "some-quantizer torch": "2.13.0",
    }
    assert all(each.met for each in requirements(LIBRARY, python))
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "site", ["lib64/python3.12/site-packages", "lib/python3/dist-packages", "Lib/site-packages"]
)
def test_environments_of_other_layouts_are_read_too(tmp_path: Path, site: str) -> None:
    python = environment(tmp_path, {"some-quantizer": "0.14.0"}, site)
    assert versions(LIBRARY, python)["some-quantizer"] == "0.14.0"


def test_the_interpreter_that_runs_this_is_read_as_it_sees_itself() -> None:
    import importlib.metadata

    found = installed(sys.executable)
    assert found["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    # Importing setuptools puts what it brings along on the path of the process that does.
    own = [path for path in sys.path if Path(sys.prefix) in Path(path).parents and "_vendor" not in path]
    for distribution in importlib.metadata.distributions(path=own):
        assert found[distribution.metadata["Name"].lower().replace("_", "-").replace(".", "-")]


def test_a_missing_library_is_named_with_the_command_that_brings_it_into_that_environment(
    tmp_path: Path,
) -> None:
    python = environment(tmp_path, {"torch": "2.13.0"})
    (missing,) = requirements(LIBRARY, python)
    assert not missing.met
    assert missing.fix == f"{python} -m pip install 'some-quantizer>=0.14,<0.15'"
    assert versions(LIBRARY, python)["some-quantizer"] is None


def test_another_version_than_the_driver_knows_is_refused_with_the_one_that_was_found(tmp_path: Path) -> None:
    python = environment(tmp_path, {"some-quantizer": "0.15.1"})
    (wrong,) = requirements(LIBRARY, python)
    assert not wrong.met
    assert "found 0.15.1" in wrong.name


def test_no_interpreter_one_that_is_not_there_and_one_that_cannot_run_are_refused(tmp_path: Path) -> None:
    (unset,) = requirements(LIBRARY, "")
    assert not unset.met
    assert "python:" in unset.fix
    (gone,) = requirements(LIBRARY, str(tmp_path / "gone"))
    assert not gone.met
    assert "does not exist" in gone.name
    (tmp_path / "file").write_text("")
    (dead,) = requirements(LIBRARY, str(tmp_path / "file"))
    assert not dead.met
    assert "cannot be run" in dead.name


def test_a_half_removed_distribution_counts_as_missing(tmp_path: Path) -> None:
    python = environment(tmp_path, {"torch": "2.13.0"})
    (tmp_path / "lib/python3.10/site-packages/some_quantizer-0.14.0.dist-info").mkdir()
    (missing,) = requirements(LIBRARY, python)
    assert not missing.met
