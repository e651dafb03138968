"""The graph of a plan as a drawing of its own: an SVG file that needs nothing else, for light and dark.

Its colours are the report's, written out: programs that draw SVG often know no variables of CSS.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError
from ...artifacts.files import storage, write_whole
from ..units import show_seconds
from .dag import Box, arranged, cost_of
from .svg import Fragment, tag, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..plan import Decision, Plan

SUFFIX = ".svg"
NAMESPACE = "http://www.w3.org/2000/svg"
WORDS = {"hit": "cached", "run": "runs", "pending": "waits", "blocked": "blocked"}
MARGIN, HEAD = 20, 34
# A drawing must have room for its title, however small its graph is.
NARROWEST = 480
_ROOT = re.compile(r":root \{(.*?)\}", re.DOTALL)
_VALUE = re.compile(r"--([\w-]+):\s*([^;]+);")
_USE = re.compile(r"var\(--([\w-]+)\)")
_OWN = ".paper { fill: var(--paper); }\n.title { font-weight: 600; }\n"


def write_graph(plan: Plan, path: Path) -> None:
    """Writes the drawing of a plan's graph.

    Raises RecipeError for a file that is not called `.svg`, StoreError when the disk refuses.
    """
    if path.suffix.lower() != SUFFIX:
        raise RecipeError(f"{path} is not the name of a drawing", fix=f"end it in {SUFFIX}")
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, render_graph(plan))


def render_graph(plan: Plan) -> str:
    """The drawing. Everything that comes from outside is escaped; nothing is loaded from anywhere."""
    width, height, parts = arranged([_box(plan, decision) for decision in plan.decisions.values()])
    about = f"; about {show_seconds(plan.expected_seconds)}" if plan.expected else ""
    size = max(NARROWEST, width) + 2 * MARGIN, height + HEAD + 2 * MARGIN
    return tag(
        "svg",
        tag("style", Fragment(_style())),
        tag("rect", width=size[0], height=size[1], class_="paper"),
        tag("g", text(MARGIN, MARGIN + 12, f"{plan.counts}{about}", "title"), class_="dag"),
        tag("g", *parts, class_="dag", transform=f"translate({MARGIN} {MARGIN + HEAD})"),
        xmlns=NAMESPACE,
        viewBox=f"0 0 {size[0]:g} {size[1]:g}",
        width=size[0],
        height=size[1],
    )


def _box(plan: Plan, decision: Decision) -> Box:
    node = plan.graph.nodes[decision.node]
    seconds, cost = None, ""
    if decision.expected is not None:
        seconds = decision.expected.seconds
        cost = f"≈ {cost_of(seconds, decision.expected.max_rss_bytes)}"
    elif decision.action is not None:
        observed: Mapping[str, object] = decision.action.observed
        took, peak = observed.get("seconds"), observed.get("max_rss_bytes")
        seconds = float(took) if isinstance(took, int | float) else None
        cost = cost_of(seconds, peak if isinstance(peak, int) else None)
    return Box(
        node.name,
        node.stage,
        tuple(node.inputs.values()),
        str(decision.state),
        WORDS[decision.state],
        seconds,
        cost,
        f"{node.name} ({node.stage}): {decision.reason}",
    )


def _style() -> str:
    """The rules of the graph with the colours of the report's light scheme, and then of its dark one."""
    page, rules = (Path(__file__).with_name(name).read_text("utf-8") for name in ("style.css", "graph.css"))
    light, dark, *_ = (dict(_VALUE.findall(block)) for block in _ROOT.findall(page))
    shown = [_resolved(f"{rules}{_OWN}", scheme) for scheme in (light, {**light, **dark})]
    return f"{shown[0]}@media (prefers-color-scheme: dark) {{\n{shown[1]}}}\n"


def _resolved(rules: str, values: Mapping[str, str]) -> str:
    """The rules with the values of their variables in place of them."""
    return _USE.sub(lambda use: values[use[1]].strip(), rules)
