"""Jinja2 templates of this package, compiled once and kept for the next process.

Compiling the report's page takes as long as planning a whole run. What it compiles to is code, so it is not
kept in the store, which users may share, but where jinja2 keeps such files: a directory below the temporary
one that belongs to this user alone. Its entries name their template, its digest, and jinja2's version.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from ..sources import source_digest

if TYPE_CHECKING:
    from jinja2.bccache import Bucket


class CompiledTemplates(jinja2.FileSystemBytecodeCache):
    """jinja2's cache, whose entries are a convenience: a disk that refuses one does not refuse the page."""

    def __init__(self) -> None:
        source = source_digest(f"{__package__}.html")
        super().__init__(pattern=f"ingot-{jinja2.__version__}-{source[:16]}-%s.cache")

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keeps a compiled template, where that can be done."""
        with contextlib.suppress(OSError):
            super().dump_bytecode(bucket)


def environment() -> jinja2.Environment:
    """Templates of this folder: every value escaped, unknown names an error."""
    return jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        bytecode_cache=_cache(),
    )


def stylesheet() -> str:
    """The style of a page, with that of the graph, which also stands in files of its own."""
    return "".join(Path(__file__).with_name(name).read_text("utf-8") for name in ("style.css", "graph.css"))


def _cache() -> CompiledTemplates | None:
    try:
        return CompiledTemplates()
    except (OSError, RuntimeError):  # jinja2 finds no directory that is this user's alone
        return None
