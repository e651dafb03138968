"""Many experts in groups compute, to the bit, what they compute in one graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from ingot.stages.export.onnx import feed_forward
from ingot.targets.runtimes import onnx as runtime

from .variants import MIXTURES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMS: dict[str, tuple[str, dict[str, object]]] = {
    "float": ("", {}),
    "int8": ("quantize.dynamic", {}),
    "int4": ("quantize.rtn", {"bits": 4, "group_size": 16}),
}
IDS = np.array([[7, 200, 31, 5, 9, 44, 120, 33], [300, 9, 18, 5, 260, 4, 4, 8]])


def outputs(directory: Path) -> list[Any]:
    """Logits of a batch, and of one token behind a past, which few experts see."""
    session = runtime.open(directory, threads=1)
    try:
        logits, past = session.step(IDS)
        return [logits, session.step(IDS[:, :1], None, past)[0]]
    finally:
        session.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", MIXTURES)
def test_groups_compute_what_one_graph_does(
    family: str,
    form: str,
    run_stage: Callable[..., Any],
    tiny_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, params = FORMS[form]
    model = tiny_checkpoint(family)
    source = run_stage(stage, {"model": model}, **params) if stage else model
    together = run_stage("export.onnx", {"model": source})
    # Groups of 2 of 4 or 5 experts: the last one may be smaller.
    monkeypatch.setattr(feed_forward, "MOST_TOGETHER", 2)
    monkeypatch.setattr(feed_forward, "GROUP", 2)
    grouped = run_stage("export.onnx", {"model": source})
    operators = [
        [node.op_type for node in onnx.load(str(each.path / "model.onnx")).graph.node]
        for each in (together, grouped)
    ]
    assert "If" not in operators[0]
    # Codes of activations are multiplied in one graph, where they are multiplied right on every processor.
    assert ("If" in operators[1]) == (form != "int8")
    for expected, found in zip(outputs(together.path), outputs(grouped.path), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert together.facts["weights_by_width"] == grouped.facts["weights_by_width"]
