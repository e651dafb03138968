"""`ingot.json` of an artifact of kind `aoti`, read with care: what it says becomes sizes and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...artifacts.errors import InputError
from .onnx_about import DESCRIPTION, IDS, MOST_END_IDS, SIZES
from .opening import read_session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = "aoti"
DTYPES = ("float32", "float16", "bfloat16")
CHOICES: Mapping[str, tuple[object, ...]] = {
    "task": ("causal-lm",),
    "dtype": DTYPES,
    "device": ("cuda", "cpu"),
    "engine": ("aoti", "compile", "eager"),
    "attention": ("auto", "flash", "efficient"),
    "tf32": (True, False),
    "cuda_graphs": (True, False),
}


def read_about(path: Path) -> dict[str, Any]:
    """What the `ingot.json` in a directory says.

    Raises InputError when it describes no artifact of this kind, or says anything that cannot be.
    """
    about = read_session(path)
    place = str(path / DESCRIPTION)
    if about["format"] != FORMAT:
        raise InputError(f"{DESCRIPTION} describes a session of {about['format']}, not {FORMAT}", where=place)
    ends = about.get("eos_ids")
    checks = [
        *((name, _is_size(about.get(name), most)) for name, most in SIZES.items()),
        *((name, about.get(name) is None or _is_size(about[name], SIZES["vocabulary"])) for name in IDS),
        *((name, about.get(name) in valid) for name, valid in CHOICES.items()),
        ("eos_ids", isinstance(ends, list) and len(ends) <= MOST_END_IDS and all(map(_is_id, ends))),
    ]
    for name, valid in checks:
        if not valid:
            what = f"{DESCRIPTION}: {name} is {str(about.get(name))[:80]!r}, which cannot be"
            raise InputError(what, where=place, fix="build the delivery again")
    return about


def _is_size(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_id(value: object) -> bool:
    return _is_size(value, SIZES["vocabulary"])
