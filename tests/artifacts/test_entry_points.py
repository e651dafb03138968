"""Entry points: found by their group on the path as it is now, and read only once a path."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from ingot.artifacts.entry_points import entry_points

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

GROUP = "ingot.tests.things"


def install(site: Path, name: str, *things: str) -> None:
    about = site / f"{name}-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    lines = "\n".join(f"{thing} = {name}:{thing}" for thing in things)
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n[ingot.tests.others]\nother = {name}:o\n")


def test_a_group_has_what_the_packages_on_the_path_register_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not entry_points(GROUP)
    install(tmp_path / "one", "shop", "till", "scale")
    install(tmp_path / "two", "mill", "stone")
    monkeypatch.syspath_prepend(tmp_path / "one")
    assert {point.name: point.value for point in entry_points(GROUP)} == {
        "till": "shop:till", "scale": "shop:scale",
    }  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path / "two")
    assert entry_points(GROUP).names == {"till", "scale", "stone"}


def test_a_path_is_read_once_for_all_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "shop", "till")
    monkeypatch.syspath_prepend(tmp_path)
    read, found = [], importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda: read.append(1) or found())
    for _ in range(3):
        assert entry_points(GROUP).names == {"till"}
        assert entry_points("ingot.tests.others").names == {"other"}
    assert read == [1]
