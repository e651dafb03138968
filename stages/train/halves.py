"""Which layers of a student are like which of its teacher, of one run of layers or of encoder and decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model.families import Architecture

LAYER_MAP, ENCODER_LAYER_MAP = "layer_map", "encoder_layer_map"
ENCODER, DECODER = "encoder_", "decoder_"


@dataclass(frozen=True)
class Half:
    """Layers that are compared: of an encoder-decoder those of one half, of other networks all.

    pairs: the student's layers with the teacher's.  widths: of the student's states and of the teacher's.
    prefix: what a network of transformers puts before the names of what they give.
    """

    pairs: tuple[tuple[int, int], ...]
    widths: tuple[int, int]
    prefix: str = ""


def halves(
    student: Architecture,
    teacher: Architecture,
    decoder: Sequence[int] | None = None,
    encoder: Sequence[int] | None = None,
) -> tuple[Half, ...]:
    """The layers to compare of two networks of one task.

    decoder, encoder: for each of the student's layers the teacher's, see :func:`layer_map`; the first is of
    the only layers where there is one run of them. Raises RecipeError for maps that do not fit, and for one
    of an encoder's layers where there is no encoder beside a decoder.
    """
    prefix, found = "", list[Half]()
    if student.encoder is not None and teacher.encoder is not None:
        found.append(_half(student.encoder, teacher.encoder, encoder, ENCODER_LAYER_MAP, ENCODER))
        prefix = DECODER
    elif encoder is not None:
        raise RecipeError(
            f"{ENCODER_LAYER_MAP} has no effect: {student.model_type} is no encoder-decoder",
            fix=f"name the layers in {LAYER_MAP}",
        )
    return (*found, _half(student, teacher, decoder, LAYER_MAP, prefix))


def layer_map(
    given: Sequence[int] | None, student: int, teacher: int, label: str = LAYER_MAP
) -> tuple[int, ...]:
    """For each of a student's layers the teacher's that it is like; evenly spread by default, last to last.

    label: what the map is called in messages. Raises RecipeError for a map of another length, or to layers
    that the teacher does not have.
    """
    if given is None:
        return tuple(max(0, round((place + 1) * teacher / student) - 1) for place in range(student))
    if len(given) != student:
        raise RecipeError(
            f"{label} names {len(given)} layers, and the student has {student}",
            fix="name for each of its layers the teacher's that it is like",
        )
    for layer in given:
        if not 0 <= layer < teacher:
            raise RecipeError(f"{label}: the teacher has no layer {layer}", fix=f"it has 0 to {teacher - 1}")
    return tuple(given)


def _half(
    student: Architecture, teacher: Architecture, given: Sequence[int] | None, label: str, prefix: str
) -> Half:
    mapped = layer_map(given, len(student.layers), len(teacher.layers), label)
    return Half(tuple(enumerate(mapped)), (student.hidden, teacher.hidden), prefix)
