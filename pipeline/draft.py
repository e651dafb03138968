"""A graph in the making: nodes from stages and settings, and what was read and used on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..artifacts.errors import RecipeError
from ..stages import base
from .graph import Builder, Node
from .layers import METHOD, Settings
from .outside import require_known
from .parameters import choose, find_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..targets.rules import Facts, Setting
    from .data import Data

CHECKPOINT, QUANTIZED, EXPAND = "checkpoint", "quantized-checkpoint", "expand"


class Draft:
    """Collects nodes. facts: of the source.  sources: of every checkpoint that is loaded, by its node.
    roles: the kinds of text that the nodes read.
    """

    def __init__(self, data: Data, seed: int, facts: Facts, sources: Mapping[str, Facts]) -> None:
        self.builder = Builder()
        self.facts = facts
        self.sources = sources
        self.roles: set[str] = set()
        self._data = data
        self._seed = seed
        self._compact: set[str] = set()

    def add(
        self,
        name: str,
        stage: base.Stage[Any],
        settings: Mapping[str, Setting],
        inputs: Mapping[str, str],
        *,
        target: str | None = None,
        reason: str = "",
        spare: str | None = None,
        where: str | None = None,
    ) -> str:
        """Adds a node with the parameters that ``settings`` give its stage; the name it is found under.

        spare: its name when other work has taken its own.  where: where its inputs were written. Raises
        RecipeError for a stage that does not take the recipe's model.
        """
        require_known(stage, self.facts, where)
        is_compact = any(source in self._compact for source in inputs.values())
        if is_compact and not stage.takes_compact:
            raise RecipeError(
                f"{stage.name} works on whole layers, and {name} would take some that are factored or shared",
                where=where,
                fix="put it before the stage that factors or shares, or an expand stage between the two",
            )
        choice = choose(stage, name, settings, self._data, where)
        self.roles.update(choice.roles)
        node = Node(name, stage.name, choice.params, inputs, target, reason, choice.origins, self._seed)
        added = self.builder.add(node, spare, where)
        keeps = is_compact and stage.output in (CHECKPOINT, QUANTIZED) and stage.name != EXPAND
        if stage.makes_compact or keeps or self.sources.get(name, {}).get("is_compact"):
            self._compact.add(added)
        return added


def stage_of(family: str, settings: Settings, section: str, who: str, where: str | None) -> base.Stage[Any]:
    """The stage that a section's method names, or the one that is called as its family is.

    who: whom the error names when there is no method.  Raises RecipeError for that, and for an unknown one.
    """
    method = settings.get((section, METHOD))
    if method is not None:
        return find_stage(family, method)
    if family in base.BUILTIN or family in base.names():
        return base.get(family)
    raise RecipeError(
        f"{section}: {who} names no method", where=where, fix=f"write {section}: {{method: ...}}"
    )
