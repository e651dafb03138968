"""Chat templates: those that try to leave a sandbox are refused before anything renders one.

A template is a program in Jinja. Who renders it later, perhaps without a sandbox, should not be handed one
that reaches for the interpreter: names and attributes that begin with an underscore, formats that reach into
objects, other templates. Templates are parsed here, which runs nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import IntakeError
from .checkpoint import TOKENIZER_CONFIG_FILE, read_object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPLATE_FILE = "chat_template.jinja"
JSON_FILES = ("chat_template.json", TOKENIZER_CONFIG_FILE)
KEY = "chat_template"
MOST_CHARACTERS = 1 << 20
# A format that reaches for what is private: {0.__class__}, {x[__y__]}.
REACHING_FORMAT = re.compile(r"\{[^{}]*[.\[]_")


def check_templates(directory: Path, source: Path) -> None:
    """Raises IntakeError for a chat template that cannot be parsed or reaches out of a sandbox.

    source: the directory that was copied, for messages.
    """
    for name, text in found_templates(directory):
        reason = fault(text)
        if reason:
            raise IntakeError(
                f"the chat template in {name} {reason}",
                where=str(source / name),
                fix="take the template out, or ask where it is from: no chat format needs this",
            )


def found_templates(directory: Path) -> Iterator[tuple[str, str]]:
    """The file and the text of every chat template in a checkpoint."""
    path = directory / TEMPLATE_FILE
    if path.is_file():
        with path.open("rb") as stream:
            yield TEMPLATE_FILE, stream.read(4 * MOST_CHARACTERS + 1).decode("utf-8", "replace")
    for name in JSON_FILES:
        if (directory / name).is_file():
            value = read_object(directory / name).get(KEY)
            yield from ((name, text) for text in _texts(value))


def fault(text: str) -> str | None:
    """Why a template is refused, as the end of a sentence, or None."""
    if len(text) > MOST_CHARACTERS:
        return f"has more than {MOST_CHARACTERS:,} characters"
    import jinja2
    from jinja2 import nodes

    try:
        tree = environment().parse(text)
        for node in tree.find_all(nodes.Node):
            if reason := _reach(node):
                return reason
    except (jinja2.TemplateError, RecursionError, OverflowError, MemoryError, ValueError) as error:
        return f"cannot be parsed: {str(error).partition(chr(10))[0][:200] or type(error).__name__}"
    return None


def _texts(value: object) -> Iterator[str]:
    """A template, or a list of named ones, as tokenizer_config.json has them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry.get("template") if isinstance(entry, dict) else None)


def environment() -> Any:
    """The Jinja that transformers renders with: loop controls, and blocks that mark what a model says.

    It is a sandbox; lines that hold nothing but a tag leave nothing behind.
    """
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} … {% endgeneration %}."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own interface

        def parse(self, parser: Any) -> Any:
            """The block as its content."""
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(
                line
            )

    return ImmutableSandboxedEnvironment(
        extensions=["jinja2.ext.loopcontrols", Generation], trim_blocks=True, lstrip_blocks=True
    )


def _reach(node: Any) -> str | None:
    """How one node reaches where no template should, or None."""
    from jinja2 import nodes

    if isinstance(node, nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends):
        return "loads other templates"
    if isinstance(node, nodes.Filter) and node.name == "attr":
        return "asks for attributes by text (attr)"
    private = None
    if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
        private = node.attr
    elif isinstance(node, nodes.Name) and node.name.startswith("_"):
        private = node.name
    elif isinstance(node, nodes.Const) and isinstance(node.value, str):
        # `x['__class__']` is x.__class__ where x has no such item.
        reaching = node.value.startswith("__") or REACHING_FORMAT.search(node.value)
        private = node.value if reaching else None
    return f"reaches for {private[:80]!r}, which leads out of a sandbox" if private else None
