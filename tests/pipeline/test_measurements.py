"""Measurements read back: their shape is checked, their numbers are left to the gate."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import CorruptError
from ingot.pipeline import measurements

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

METRIC = {
    "unit": "ppl",
    "better": "lower",
    "comparison": "relative",
    "reference": 20.0,
    "value": 21.0,
    "n": 3,
}


def document(**changes: object) -> bytes:
    whole = {
        "schema": measurements.SCHEMA,
        "kind": "quality",
        "task": "causal-lm",
        "metrics": {"perplexity": METRIC},
    }
    return json.dumps({**whole, **changes}).encode()


def test_both_files_are_read_from_a_directory(tmp_path: Path, samples: ModuleType) -> None:
    (tmp_path / "measurements.json").write_bytes(document(data={"window": 256}))
    (tmp_path / "samples.json").write_text(json.dumps({"document": [0, 0, 1], "tokens": [5, 6, 7]}))
    found = measurements.read(tmp_path)
    assert found.metrics["perplexity"].value == 21.0
    assert found.columns["tokens"] == [5, 6, 7]
    assert found.data == {"window": 256}


def test_null_is_read_as_not_a_number() -> None:
    found = measurements.parse(
        document(metrics={"perplexity": {**METRIC, "value": None, "nan": True}}), b"{}"
    )
    assert math.isnan(found.metrics["perplexity"].value)


def test_repeats_are_kept_by_metric_and_side() -> None:
    found = measurements.parse(
        document(), json.dumps({"load_ms": {"reference": [1, 2], "value": [3, 4]}}).encode()
    )
    assert found.repeats == {"load_ms": {"reference": [1, 2], "value": [3, 4]}}


def test_the_digest_changes_with_either_file() -> None:
    one = measurements.parse(document(), b"{}").digest
    assert one != measurements.parse(document(), b"{} ").digest
    assert one != measurements.parse(document(task="encoder"), b"{}").digest
    assert one == measurements.parse(document(), b"{}").digest


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        (b"{", b"{}"),
        (document(), b"[1]"),
        (document(schema="ingot/measurements/v9"), b"{}"),
        (document(metrics=[1]), b"{}"),
        (document(metrics={"perplexity": {"unit": "ppl"}}), b"{}"),
        (document(metrics={"perplexity": {**METRIC, "value": "12"}}), b"{}"),
        (document(metrics={"perplexity": {**METRIC, "n": True}}), b"{}"),
        (document(), json.dumps({"tokens": ["a"]}).encode()),
    ],
)
def test_another_shape_is_refused(text: bytes, samples: bytes) -> None:
    with pytest.raises(CorruptError, match="measurements of an unknown form"):
        measurements.parse(text, samples)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="cannot be read"):
        measurements.read(tmp_path)
