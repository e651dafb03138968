"""Whether a traced graph computes what the model computes, at sizes that it was not traced with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .....artifacts.errors import InputError, IntakeError, StageError
from .....targets.runtimes import onnx
from .....targets.runtimes.onnx_pair import OnnxPairSession
from ....model import parity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ....model.families import Outline
    from ....model.logits_store import Rows

# A graph that agrees differs by the order of its sums. One with a size that the trace fixed, or with wrong
# positions, differs by as much as its outputs do from token to token.
MOST_ERROR = 1e-3


def check_vocabulary(rows: Rows, model: Outline, directory: Path) -> None:
    """Raises IntakeError when the model gives another number of logits, or hidden features, than its config
    says; rows: what it gave.
    """
    name = "hidden size" if model.task == "encoder" else "vocabulary"
    expected = model.hidden if model.task == "encoder" else model.vocabulary
    if rows.outputs.shape[1] != expected:
        raise IntakeError(
            f"the config gives a {name} of {expected}, but the model one of {rows.outputs.shape[1]}",
            where=str(directory),
            fix="check that config.json and the weights are of the same model",
        )


def differing(directory: Path, rows: Rows, threads: int) -> dict[str, float]:
    """The cases in which the graph gives something else than the model, with their largest error.

    directory: of the artifact.  rows: what the model gave, each row alone; see
    :func:`ingot.stages.model.parity.measure` for the cases. Raises StageError when onnxruntime does not open
    or run the graph.
    """
    import numpy as np

    most = MOST_ERROR * max(1.0, float(np.abs(rows.outputs).max()))
    try:
        session = onnx.open(directory, threads=threads)
    except InputError as error:
        raise StageError(f"its graph does not load: {error.what}") from error
    try:
        if isinstance(session, OnnxPairSession):
            cases = parity.measure_pairs(session, rows)
        else:
            cases = parity.measure(session, rows)
    finally:
        session.close()
    return {name: case["max_error"] for name, case in cases.items() if not case["max_error"] <= most}


def described(errors: Mapping[str, float]) -> str:
    """The cases in words: `decode (by 0.3)`."""
    return ", ".join(f"{name} (by {error:.2g})" for name, error in errors.items())
