"""What quantization-aware training takes: inputs that go together, told from headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...artifacts.errors import InputError, RecipeError
from ..model.checkpoint import Checkpoint
from ..model.quantized import RECORD_FILE, QuantizedCheckpoint
from ..train.checks import require_predicting
from ..train.teacher import check_teacher

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .qat import QatParams

MODEL, TEACHER, ORIGINAL = "model", "teacher1", "original1"
# What says how a checkpoint in floating point is rounded; codes have a format already.
FORMAT = ("bits", "group_size", "sym", "lm_head_bits", "embedding_bits", "ignore", "overrides")


def check_inputs(params: QatParams, directories: Mapping[str, Path]) -> None:
    """Raises InputError for inputs that do not go together, and RecipeError for what has no effect."""
    model, original = directories[MODEL], directories.get(ORIGINAL)
    is_quantized = (model / RECORD_FILE).exists()
    source = Checkpoint.open(model)
    require_predicting("quantize.qat", source, fix="quantize it by another method, such as gptq")
    _check_effect(params, directories, is_quantized=is_quantized)
    teacher = directories.get(TEACHER)
    check_teacher(params, source, Checkpoint.open(teacher) if teacher else None)
    if is_quantized:
        opened = QuantizedCheckpoint.open(model)
        _check_codes(opened)
        if original is not None:
            _check_original(opened, Checkpoint.open(original))


def _check_effect(params: QatParams, directories: Mapping[str, Path], *, is_quantized: bool) -> None:
    given = [name for name in FORMAT if getattr(params, name) not in (None, ())]
    if is_quantized and given:
        what = f"{given[0]} has no effect: the codes that come in have a format already"
        raise RecipeError(what, fix=f"set it where they are made, or let {MODEL} be a checkpoint")
    if ORIGINAL in directories and not is_quantized:
        what = "original has no effect: the model that comes in is in floating point itself"
        raise RecipeError(what, fix="leave it out, or let a quantized checkpoint come in")


def _check_codes(opened: QuantizedCheckpoint) -> None:
    for name, spec in opened.quantized.items():
        form, what = spec.format, ""
        if form.numeric != "int":
            what = f"the codes of {name} are {form.width}"
        elif form.activation != "none":
            what = f"{name} goes with {form.activation} activations in int8"
        if what:
            raise InputError(
                f"quantize.qat trains integer weights, and {what}",
                where=str(opened.checkpoint.directory),
                fix="start from quantize.rtn, gptq or awq, or from a checkpoint in floating point",
            )


def _check_original(opened: QuantizedCheckpoint, original: Checkpoint) -> None:
    if opened.transforms:
        raise InputError(
            f"scales were folded into the network before its codes were made ({opened.method}), which the "
            "original does not have",
            where=str(original.directory),
            fix="leave original out",
        )
    for name, spec in opened.quantized.items():
        shape = spec.shape[::-1] if spec.stored_in_out else spec.shape
        if name not in original.tensors or tuple(original.tensors.info(name).shape) != shape:
            raise InputError(
                f"the original has no {name} of {list(shape)}, which the codes are of",
                where=str(original.directory),
                fix="name the checkpoint that was quantized",
            )
