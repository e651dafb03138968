"""Whether one network can teach another: predictions are compared token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import InputError, RecipeError
from ..base import Expansion, Source
from ..model.checkpoint import TOKENIZER_FILE, read_object
from ..model.tokenizer import token_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..model.checkpoint import Checkpoint
    from .params import TaughtParams

# What says how a teacher is followed, and what holds without one.
TAUGHT = {"divergence": "forward", "temperature": 2.0, "alpha": 1.0, "top_k": 0}


def named_models(values: Mapping[str, object], names: Sequence[str]) -> Expansion:
    """Parameters with names of inputs in place of the models that some of them may name: `teacher1` ..."""
    found, sources = dict(values), {}
    for name in names:
        given = values.get(name)
        if given is None:
            continue
        if not isinstance(given, str) or not given:
            raise RecipeError(f"{name}: {given!r} is not the name of a model")
        found[name] = f"{name}1"
        sources[f"{name}1"] = Source(given, origin=name)
    return Expansion(found, sources)


def check_teacher(params: TaughtParams, student: Checkpoint, teacher: Checkpoint | None) -> None:
    """Raises RecipeError for how to follow a teacher where there is none, and InputError for one that cannot
    teach the student.
    """
    if teacher is not None:
        require_comparable(student, teacher)
        return
    for name, usual in TAUGHT.items():
        if getattr(params, name) != usual:
            raise RecipeError(f"{name} has no effect: there is no teacher", fix="name one: teacher: load")


def require_comparable(student: Checkpoint, teacher: Checkpoint) -> None:
    """Raises InputError for networks of two tasks, and for those whose predictions are of other tokens: with
    other vocabularies, or whose targets begin with another token.
    """
    ours, theirs = student.architecture, teacher.architecture
    if ours.task != theirs.task:
        what = f"the student is of the task {ours.task}, the teacher of {theirs.task}"
        raise InputError(what, where=str(teacher.directory), fix="take a teacher of the student's task")
    _check_vocabularies(student, teacher)
    if ours.decoder_start != theirs.decoder_start:
        raise InputError(
            f"the teacher's targets begin with token {theirs.decoder_start}, the student's with "
            f"{ours.decoder_start}",
            where=str(teacher.directory),
            fix="take a teacher with the student's decoder_start_token_id",
        )


def _check_vocabularies(student: Checkpoint, teacher: Checkpoint) -> None:
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
