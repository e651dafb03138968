"""`ingot.json` of a delivery, read with care: what it says becomes sizes, names and settings of a session."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError
from ...artifacts.strict_json import parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA = "ingot/session/v1"
DESCRIPTION = "ingot.json"
ONNX = "onnx"
TASKS = (CAUSAL, ENCODER, SEQ2SEQ) = ("causal-lm", "encoder", "seq2seq-lm")
MOST_BYTES = 1 << 20
# The sizes that a session allocates by, and the most that any model has of each.
SIZES: Mapping[str, int] = {
    "layers": 10_000, "hidden": 1 << 20, "kv_heads": 1 << 16, "head_dim": 1 << 16,
    "vocabulary": 1 << 24, "context": 1 << 31,
}  # fmt: skip
IDS = ("bos_id", "pad_id", "decoder_start_id", "first_id")
MOST_END_IDS = 1000
# Names of inputs and outputs; str.format fills in the layer and the part.
PATTERN = re.compile(r"[\w.]{0,64}\{layer\}[\w.]{0,64}\{part\}[\w.]{0,64}")
PATTERNS = ("past", "present", "cross")
FILE_NAME = re.compile(r"[\w.-]{1,64}\.(onnx|ort|pte|ptl)")
# Others let a session read and write files of their choosing.
SESSION_OPTIONS = ("session.x64quantprecision", "session.qdq_matmulnbits_accuracy_level")


def read_about(path: Path, form: str | None = None) -> dict[str, Any]:
    """What the `ingot.json` in a directory says.

    form: the artifact's format, such as `onnx`; any when None.  Raises InputError when it is missing or too
    large, is not JSON of that schema or is of another format, is of a task that no session here runs, or says
    anything that cannot be.
    """
    place = path / DESCRIPTION
    if not place.is_file():
        raise InputError(
            f"there is no {DESCRIPTION}",
            where=str(path),
            fix="give a delivery's directory, or an artifact that a runtime opens",
        )
    with place.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"{DESCRIPTION} has more than {MOST_BYTES:,} bytes", where=str(place))
    try:
        about: dict[str, Any] = parse_object(data)
    except ValueError as error:
        raise InputError(f"{DESCRIPTION} {error}", where=str(place)) from None
    if about.get("schema") != SCHEMA or form not in (None, about.get("format")):
        what = f"{DESCRIPTION} does not describe a session of {SCHEMA}"
        raise InputError(f"{what}, of the format {form}" if form else what, where=str(place))
    if about.get("task") not in TASKS:
        raise InputError(
            f"a session runs models of the tasks {', '.join(TASKS)}, not {str(about.get('task'))[:80]!r}",
            where=str(place),
        )
    for name, valid in _checks(about):
        if not valid:
            what = f"{DESCRIPTION}: {name} is {str(about.get(name))[:80]!r}, which cannot be"
            raise InputError(what, where=str(place), fix="build the delivery again")
    return about


def _checks(about: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Each part that a session goes by, and whether it can be so."""
    # A language model's graph may have no cache.
    caches = about["task"] == SEQ2SEQ or (about["task"] == CAUSAL and about.get("past", "") is not None)
    patterns = [name for name in PATTERNS if caches and (name != "cross" or about["task"] == SEQ2SEQ)]
    ends = about.get("eos_ids") or []
    options = about.get("session_options", {})
    requires = about.get("requires", {})
    encoder = about.get("encoder") or {}
    return [
        *((name, _is_number(about.get(name), most)) for name, most in SIZES.items()),
        *((name, about.get(name) is None or _is_number(about[name], SIZES["vocabulary"])) for name in IDS),
        *((name, bool(PATTERN.fullmatch(str(about.get(name))))) for name in patterns),
        ("file", FILE_NAME.fullmatch(str(about.get("file", "model.onnx"))) is not None),
        ("eos_ids", isinstance(ends, list) and len(ends) <= MOST_END_IDS and all(map(_is_id, ends))),
        ("session_options", _is_options(options)),
        ("requires", isinstance(requires, dict)),
        ("logits_from", isinstance(about.get("logits_from"), str | None)),
        ("encoder", isinstance(encoder, dict) and (about["task"] != SEQ2SEQ or _is_half(encoder))),
    ]


def _is_number(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_id(value: object) -> bool:
    return _is_number(value, SIZES["vocabulary"])


def _is_options(value: object) -> bool:
    known = isinstance(value, dict) and set(value) <= set(SESSION_OPTIONS)
    return known and all(isinstance(item, str) for item in value.values())  # type: ignore[attr-defined]


def _is_half(value: Mapping[str, Any]) -> bool:
    """Whether an encoder-decoder's other graph is a file beside it, with a context that can be."""
    return FILE_NAME.fullmatch(str(value.get("file"))) is not None and _is_number(
        value.get("context"), SIZES["context"]
    )
