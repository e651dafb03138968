"""Groups that one map alone takes up: where it is met, channels can be chosen and the map fitted at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model.channels import Group


def has_single_reader(group: Group) -> bool:
    """Whether one map alone takes its channels up, some inputs for each."""
    return bool(group.width) and len({reader.name for reader in group.readers}) == 1


def require_single_readers(groups: Sequence[Group]) -> None:
    """Raises RecipeError for groups whose channels several maps take up, or none by some inputs for each."""
    for group in groups:
        if not has_single_reader(group):
            raise RecipeError(
                f"prune.scoring: obs asks what one map loses, and the channels of {group.label} are taken up "
                "by others too",
                fix="write scoring: activation, or leave that kind of channels whole",
            )
