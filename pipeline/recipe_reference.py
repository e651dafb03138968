"""The reference of recipes, written from the schema itself: `python -m ingot.pipeline.recipe_reference`.

`docs/recipe.md` is what this prints; a test compares the two, so the page cannot fall behind the code.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from typing import TYPE_CHECKING

from ..artifacts import schema
from ..stages import base
from ..targets import profile as profiles
from .data import DataFields
from .metrics import ALIASES, METRICS
from .recipe import RecipeFields
from .recipe_targets import TargetFields
from .rules import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = """# Recipes

This page is written from the schema (`python -m ingot.pipeline.recipe_reference`). A recipe is YAML 1.2
with plain values; a key that is not listed here is an error that names the file, the line and the nearest
valid key. Relative paths start at the recipe's folder.

```yaml
model: ./my-checkpoint
targets:
  cpu-int8:
  cpu-int4: {quantize: {method: rtn, bits: 4, group_size: 64}}
data: {evaluation: heldout.txt}
gates:
  perplexity: {max_increase: 2%}
```

Values are layered, strongest first: `--set node.param=value` (`quantize@cpu-int4.bits=3` for one target),
`INGOT_SET__QUANTIZE__BITS=3` in the environment (`INGOT_SET__QUANTIZE_AT_CPU_INT4__BITS`), the recipe's
`targets.<name>`, the recipe, the target's profile, the defaults below. `ingot plan --resolved` shows what
holds and who gave it.
"""

LONG = """## Long form and matrix

`stages:` may also be a graph of named nodes; the short form is short for one. A node has a `stage:`, its
`params:`, and the nodes it takes (`from: name`, or `from: {input: name}` for several); a target takes the
last checkpoint unless it says `from:`.

```yaml
stages:
  small: {stage: quantize.rtn, params: {bits: 4, group_size: 32}, from: load}
targets:
  cpu-int4: {from: small}
```

`matrix:` fans targets out over parameter values: each cell is a leaf `target[k=v]`, gated and reported
under that name, and delivered only when `--select` names it.

```yaml
targets: [cpu-int4]
matrix: {quantize.group_size: [32, 64, 128]}
```
"""

OTHERS = """## Other libraries

`backend:` has another library run the method, in an environment of its own that `python:` names:

```yaml
targets:
  ours: {profile: cpu-int4, quantize: {method: rtn, group_size: 32}}
  theirs:
    profile: cpu-int4
    quantize: {method: gptq, backend: llmcompressor, python: ./env/bin/python, group_size: 32}
```

It is the stage `quantize.llmcompressor` with `algorithm: gptq`. What that environment lacks is told before
anything runs, with the command that installs it there; its versions enter the key. The codes come back
into the one quantized form, so exporters, gates and the report treat them as any others.
"""

RULES = """`max` and `min` bound the value, the others its difference from the reference. Limits take units:
`2%`, `60MB`, `5ms`. `metric: none` takes a profile's gate away."""


def render() -> str:
    """The whole page as Markdown."""
    return "\n".join([HEAD, *_sections()]).rstrip() + "\n"


def _sections() -> Iterator[str]:
    yield _table("Top level", RecipeFields)
    yield _table("`data:`", DataFields)
    yield _table("`targets.<name>:`", TargetFields)
    yield LONG
    yield OTHERS
    yield _metrics()
    yield _profiles()
    yield "## Stages\n"
    for name in base.BUILTIN:
        stage = base.get(name)
        several = {f"{stem}1, {stem}2 ...": kinds for stem, kinds in stage.many.items()}
        inputs = {**stage.inputs, **several}
        taken = ", ".join(f"{key}: {' or '.join(kinds)}" for key, kinds in inputs.items()) or "nothing"
        yield f"### `{name}`\n\n{stage.summary}. Takes {taken}; makes {stage.output}; {stage.determinism}.\n"
        if schema.fields(stage.params):
            yield _rows(stage.params)


def _table(title: str, cls: type) -> str:
    return f"## {title}\n\n{_rows(cls)}"


def _rows(cls: type) -> str:
    hints = typing.get_type_hints(cls)
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for name, field in schema.fields(cls).items():
        if field.metadata.get("internal"):
            continue
        choices = field.metadata.get("choices")
        kind = ", ".join(str(choice) for choice in choices) if choices else schema.describe(hints[field.name])
        is_required = field.default is dataclasses.MISSING
        default = "required" if is_required else _shown(field.default)
        lines.append(f"| `{name}` | {kind} | {default} | {field.metadata['doc']} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if value is None or value == ():
        return "–"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metrics() -> str:
    short = {name: alias for alias, name in ALIASES.items()}
    lines = [
        "## `gates:`\n",
        f"`metric: {{rule: limit}}` with the rules {', '.join(f'`{kind}`' for kind in KINDS)}. {RULES}\n",
        "| metric | short | unit | better | difference |",
        "|---|---|---|---|---|",
    ]
    for metric in METRICS.values():
        name = f"`{short[metric.name]}`" if metric.name in short else ""
        lines.append(
            f"| `{metric.name}` | {name} | {metric.unit or '–'} | {metric.better} | {metric.comparison} |"
        )
    return "\n".join(lines) + "\n"


def _profiles() -> str:
    lines = ["## Targets\n", "| target | status | runtime | what it is |", "|---|---|---|---|"]
    for path in sorted(profiles.PROFILES.glob("*.yaml")):
        found = profiles.get(path.stem)
        lines.append(f"| `{found.name}` | {found.status} | {found.runtime} | {found.summary} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
