"""Whether one network can teach another: predictions are compared token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import InputError
from ..model.checkpoint import TOKENIZER_FILE, read_object
from ..model.tokenizer import token_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.checkpoint import Checkpoint


def check_vocabularies(student: Checkpoint, teacher: Checkpoint) -> None:
    """Raises InputError where two models do not have the same tokens under the same ids."""
    sizes = [each.architecture.vocabulary for each in (student, teacher)]
    found = []
    for each in (student, teacher):
        path = each.directory / TOKENIZER_FILE
        found.append(dict(token_ids(read_object(path), str(path))))
    odd = next((n for n in sorted({*found[0], *found[1]}) if found[0].get(n) != found[1].get(n)), None)
    if sizes[0] == sizes[1] and odd is None:
        return
    what = (
        f"the teacher has {sizes[1]:,} tokens, the student {sizes[0]:,}"
        if sizes[0] != sizes[1]
        else f"token {odd} is the teacher's {_shown(found[1], odd)} and the student's {_shown(found[0], odd)}"
    )
    raise InputError(
        f"teacher and student have different vocabularies: {what}",
        where=str(teacher.directory),
        fix="predictions are compared token by token: take a teacher with the student's tokenizer",
    )


def _shown(tokens: Mapping[int, str], number: int | None) -> str:
    return repr(tokens[number]) if number is not None and number in tokens else "none"
