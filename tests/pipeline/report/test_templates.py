"""Compiled templates: kept for the next process, never stale, and never in the way of a page."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
from ingot.pipeline.report import templates
from ingot.pipeline.report.templates import environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A temporary directory of this test's own, below which jinja2 keeps what it compiled."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def refuse(*_arguments: object, **_options: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def rendered(text: str, **filters: Callable[[object], str]) -> str:
    """What a template of this text says in a new environment, as in a new process."""
    fresh = environment()
    fresh.loader = jinja2.DictLoader({"page": text})
    fresh.filters |= filters
    return fresh.get_template("page").render()


def test_a_template_is_compiled_once_and_found_by_the_next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendered("{{ 1 }}") == "1"
    monkeypatch.setattr(jinja2.Environment, "compile", refuse)
    assert rendered("{{ 1 }}") == "1"


def test_a_changed_template_is_compiled_again() -> None:
    assert [rendered("one {{ 1 }}"), rendered("two {{ 2 }}")] == ["one 1", "two 2"]


def test_a_change_of_our_source_compiles_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendered("{{ 1 | word }}", word=lambda _: "old") == "old"
    monkeypatch.setattr(templates, "source_digest", lambda _module: "f" * 64)
    assert rendered("{{ 1 | word }}", word=lambda _: "new") == "new"


def test_a_full_disk_does_not_refuse_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    assert rendered("{{ 1 }}") == "1"


def test_a_directory_that_may_be_another_users_is_not_used(temporary: Path) -> None:
    (temporary / f"_jinja2-cache-{os.getuid()}").write_text("not a directory")
    assert environment().bytecode_cache is None
    assert rendered("{{ 1 }}") == "1"


def test_only_this_user_may_read_and_write_what_is_kept(temporary: Path) -> None:
    rendered("{{ 1 }}")
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(list(folder.iterdir())) == 1


def test_values_are_escaped_and_unknown_names_are_errors() -> None:
    assert rendered("{{ '<b>' | word }}", word=str) == "&lt;b&gt;"
    with pytest.raises(jinja2.UndefinedError):
        rendered("{{ nobody }}")
