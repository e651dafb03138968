"""What a delivery for phones says of apps: runtime, version, and code that fits what the program takes."""

from __future__ import annotations

import re
from typing import Any

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
    assert told.count("```kotlin") == told.count("```swift") == told.count("```objc") == 1


def session_of(task: str) -> dict[str, Any]:
    inputs = ["input_ids", "attention_mask"]
    inputs += ["position_ids", "past_key_values.0.key"] if task == "causal-lm" else ["token_type_ids"]
    outputs = ["logits", "present.0.key"] if task == "causal-lm" else ["hidden_states"]
    return {
        "task": task, "file": "model.ort", "inputs": inputs, "outputs": outputs,
        "kv_heads": 2, "head_dim": 64,
        "requires": {"onnxruntime": ">=1.24"},
    }  # fmt: skip


@pytest.mark.parametrize("task", ["causal-lm", "encoder"])
def test_code_for_ort_files_feeds_every_input_of_the_graph_and_no_other(task: str) -> None:
    session = session_of(task)
    told = "\n".join(packaging_section("onnx", session))
    kotlin, swift = re.findall(r"```(?:kotlin|swift)\n(.+?)```", told, re.DOTALL)
    for code in (kotlin, swift):
        named = set(re.findall(r'"(\w+_ids|attention_mask)"', code))
        assert named == {name for name in session["inputs"] if not name.startswith("past")}
        assert ("past" in code) is (task == "causal-lm")
    assert "1, 2, 0, 64" in told or task == "encoder"
    assert f'outputNames: ["{session["outputs"][0]}"]' in swift
    assert "required_operators.config" in told


def test_both_files_of_an_encoder_decoder_are_named() -> None:
    assert "encoder.ort" in "\n".join(packaging_section("onnx", session_of("seq2seq-lm")))


def test_other_formats_have_no_such_section() -> None:
    assert not list(packaging_section("onnx", {}))
