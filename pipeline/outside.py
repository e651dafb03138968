"""Models outside the table of families: which stages take them, and what plan and report say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..artifacts.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..stages.base import Stage

REMEDY = (
    "build it in float32, as --target cpu-fp32 does, or describe its layers to Ingot through an entry point "
    "of the group ingot.families"
)


def is_outside(facts: Mapping[str, object]) -> bool:
    """Whether a source's facts are of a model outside the table."""
    return not facts.get("known_family", True)


def require_known(stage: Stage[Any], facts: Mapping[str, object], where: str | None) -> None:
    """Raises RecipeError for a stage that works on layers it has to know, in a graph of a model outside."""
    if is_outside(facts) and not stage.any_architecture:
        raise RecipeError(
            f"{stage.name} works on the layers of known architectures, and {facts['model_type']} is not in "
            "Ingot's table",
            where=where,
            fix=REMEDY,
        )


def note(facts: Mapping[str, object]) -> str:
    """What is not available for a model outside the table."""
    return (
        f"{facts['model_type']} is not in Ingot's table of architectures: it is exported in float32, traced "
        "as transformers computes it. Not available for it: quantization and other stages that change "
        "weights, the size of its keys and values before it is built, and a report of its weights by role"
    )
