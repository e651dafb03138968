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


def test_cells_of_a_sweep_tell_tokens_a_second_by_side() -> None:
    quantiles = {"p50": 50.0, "p95": 60.0, "p99": 70.0, "n": 4}
    cell = {
        "batch": 4,
        "sequence": 100,
        "sides": {"value": {"prefill_ms": quantiles, "decode_ms": quantiles}},
    }
    (found,) = measurements.parse(document(sweep=[cell]), b"{}").sweep
    # 400 tokens, and 4 tokens, in 50 ms.
    assert found.tokens_per_second("value", "prefill_ms") == pytest.approx(8000)
    assert found.tokens_per_second("value", "decode_ms") == pytest.approx(80)
    assert found.tokens_per_second("reference", "prefill_ms") is None
    assert found.sides["value"]["prefill_ms"].n == 4


def test_golden_texts_are_read_with_and_without_a_parting() -> None:
    same = {"prompt": "a", "tokens": 3, "agreed": 3, "common": " b", "reference": None, "value": None}
    side = {"token": "x", "rest": "y", "probability": None}
    parted = {**same, "agreed": 1, "reference": {**side, "probability": 0.5}, "value": side}
    broken = {"prompt": "a", "tokens": 3, "error": "no numbers"}
    found = measurements.parse(document(golden=[same, parted, broken]), b"{}").golden
    assert found[0] == measurements.Golden("a", 3, 3, " b")
    assert found[1].reference == measurements.Parting("x", "y", 0.5)
    assert found[1].value == measurements.Parting("x", "y")
    assert found[2].error == "no numbers"


@pytest.mark.parametrize(
    "changes",
    [
        {"sweep": {}}, {"sweep": [{"batch": 1}]}, {"sweep": [{"batch": "1", "sequence": 1, "sides": {}}]},
        {"golden": 3}, {"golden": [{"prompt": "a"}]}, {"golden": [{"prompt": "a", "tokens": 1, "value": {}}]},
    ],
)  # fmt: skip
def test_sweeps_and_texts_of_another_form_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CorruptError, match="unknown form"):
        measurements.parse(document(**changes), b"{}")
