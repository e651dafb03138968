"""What a delivery for phones says of apps: runtime, version, and code that fits what the program takes."""

from __future__ import annotations

import pytest
from ingot.pipeline.packaging import packaging_section


@pytest.mark.parametrize(("task", "has_positions"), [("causal-lm", True), ("encoder", False)])
def test_code_passes_positions_to_programs_that_keep_a_past(task: str, has_positions: bool) -> None:
    told = "\n".join(
        packaging_section("executorch", {"task": task, "context": 256, "requires": {"executorch": ">=1.5"}})
    )
    assert ("positions)" in told) is has_positions
    assert "executorch-android`, version >=1.5" in told
    assert told.count("```kotlin") == told.count("```swift") == 1
    assert "256" in told


def test_the_lite_interpreter_is_said_to_be_old() -> None:
    told = "\n".join(packaging_section("torchscript", {"task": "causal-lm", "context": 64}))
    assert "no longer developed" in told
    assert "model.ptl" in told


def test_other_formats_have_no_such_section() -> None:
    assert not list(packaging_section("onnx", {}))
