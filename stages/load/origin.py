"""Where a checkpoint is from, and under which licence, as far as its files and their place say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .files import check_inside, source_root

if TYPE_CHECKING:
    from pathlib import Path

CARD_FILE = "README.md"


def describe_source(directory: Path) -> dict[str, str]:
    """Where a checkpoint is from: its name or hub address and commit, and the licence its card states."""
    found = {"uri": directory.resolve().name}
    repository = source_root(directory)
    if repository != directory:
        name = repository.name.removeprefix("models--").replace("--", "/")
        found = {"uri": f"hf://{name}", "revision": directory.name}
    licence = stated_licence(directory)
    return {**found, "license": licence} if licence else found


def stated_licence(directory: Path) -> str | None:
    """The licence in the front matter of a model card, as the hub writes it; None where there is none."""
    card = directory / CARD_FILE
    if not card.is_file():
        return None
    check_inside(card, source_root(directory).resolve())
    with card.open(encoding="utf-8", errors="replace") as stream:
        if stream.readline(100).strip() != "---":
            return None
        for line in stream:
            key, _, value = line.partition(":")
            if line.strip() == "---":
                return None
            if key == "license" and value.strip():
                return value.strip().strip("'\"")
    return None
