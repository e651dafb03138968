"""Curves, dots and waterfalls: where they lie, and what they say."""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline.report import curves
from ingot.pipeline.report.parts import Step, percentiles
from ingot.pipeline.report.plots import document_plot, thinned
from ingot.pipeline.report.waterfall import step_changes, waterfall

if TYPE_CHECKING:
    from types import ModuleType

numbers = st.lists(st.floats(0, 1e4), min_size=1, max_size=60)


def words(drawing: ET.Element) -> list[str]:
    return [str(text.text) for text in drawing.iter("text")]


@given(numbers)
def test_percentiles_are_numpys(samples: list[float]) -> None:
    np.testing.assert_allclose(percentiles(samples), np.percentile(samples, range(101)), rtol=1e-9, atol=1e-9)


def test_no_samples_have_no_percentiles() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentiles([])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=400), st.integers(2, 80))
def test_thinned_values_are_some_of_them_with_both_ends(values: list[float], most: int) -> None:
    ordered = sorted(values)
    found = thinned(ordered, most)
    assert len(found) == min(most, len(ordered))
    assert (found[0], found[-1]) == (ordered[0], ordered[-1])
    assert found == sorted(found)


def test_a_thousand_documents_are_thinned_said_so_and_still_counted(samples: ModuleType) -> None:
    documents = samples.document_deltas(samples.quality_of(samples.windows(documents=1000, per_document=1)))
    drawing = document_plot(documents, 0.02, "relative")
    assert len(drawing) < 12_000
    assert "160 of 1,000 documents" in drawing
    worse = sum(document.delta > 0 for document in documents)
    assert f"{worse} of 1000 documents above zero" in drawing


def test_the_faster_side_lies_to_the_left_and_quantiles_are_said() -> None:
    slow, fast = (percentiles([start + n * step for n in range(101)]) for start, step in ((10, 1), (1, 0.1)))
    drawing = ET.fromstring(curves.cumulative("decode", "ms", {"reference": slow, "artifact": fast}))
    paths = {str(path.get("class")): str(path.get("d")) for path in drawing.iter("path")}
    places = {kind: [float(x) for x in re.findall(r"([\d.]+) [\d.]+", d)] for kind, d in paths.items()}
    pairs = zip(places["curve artifact"], places["curve reference"], strict=False)
    assert all(ours < theirs for ours, theirs in pairs)
    assert words(drawing)[-1] == "p50 6.00\u202fms · p95 10.5\u202fms · p99 10.9\u202fms"
    assert "reference: p50 60.0\u202fms" in str(drawing.findtext("desc"))


def test_one_model_alone_is_not_called_the_reference() -> None:
    one = percentiles([1.0, 2.0])
    drawing = ET.fromstring(curves.cumulative("prefill", "ms", {"a": one}, [one, one]))
    kinds = [str(path.get("class")) for path in drawing.iter("path")]
    assert kinds == ["curve context", "curve context", "curve artifact"]


@given(st.lists(st.floats(-0.01, 0.3), min_size=1, max_size=14))
def test_labels_of_targets_never_overlap_and_stay_inside(deltas: list[float]) -> None:
    targets = [curves.Traded(f"t{n}", "pass", 1e6 + n, delta, None, None) for n, delta in enumerate(deltas)]
    drawing = ET.fromstring(curves.trade(targets, "Perplexity", "relative"))
    labels = [text for text in drawing.iter("text") if str(text.text).startswith("t")]
    heights = sorted(float(text.get("y", 0)) for text in labels)
    assert len(heights) == len(deltas)
    assert all(b - a >= curves.LABEL_HEIGHT - 0.02 for a, b in itertools.pairwise(heights))
    assert all(0 <= y <= curves.TRADE_HEIGHT for y in heights)


def test_a_larger_and_better_target_is_to_the_right_and_below() -> None:
    targets = [
        curves.Traded("small", "pass", 1e6, 0.04, 0.03, 0.05),
        curves.Traded("large", "fail", 4e6, 0.01, None, None),
    ]
    drawing = ET.fromstring(curves.trade(targets, "Perplexity", "relative"))
    small, large = sorted(drawing.iter("circle"), key=lambda dot: float(dot.get("cx", 0)))
    assert float(small.get("cy", 0)) < float(large.get("cy", 0))
    assert (small.get("class"), large.get("class")) == ("dot pass", "dot fail")
    assert "small: 1.00\u202fMB, +4.00\u202f%" in str(drawing.findtext("desc"))


def test_relative_changes_of_steps_multiply_up_to_the_whole() -> None:
    steps = [
        Step("load", "load", 10, 0.0), Step("prune", "prune.structured", 8, 0.02, "cpu-fp32"),
        Step("quantize", "quantize.rtn", 3), Step("export", "export.onnx", 3, 0.05, "cpu"),
    ]  # fmt: skip
    found = list(step_changes(steps, "relative"))
    assert (found[0], found[2]) == (None, None)
    assert found[1] == pytest.approx(0.02)
    assert (1 + 0.02) * (1 + found[3]) == pytest.approx(1.05)
    absolute = list(step_changes(steps, "absolute"))
    assert absolute[3] == pytest.approx(0.03)


def test_a_waterfall_says_bytes_changes_and_what_was_not_measured_apart() -> None:
    steps = [
        Step("load", "load", 10_000_000, 0.0), Step("prune", "prune.structured", 8_000_000, 0.02, "cpu-fp32"),
        Step("quantize", "quantize.rtn", 2_000_000), Step("export", "export.onnx", 2_100_000, 0.0506, "cpu"),
    ]  # fmt: skip
    drawing = ET.fromstring(waterfall(steps, "cpu", "perplexity", "relative"))
    said = words(drawing)
    assert "8.00\u202fMB (−20.0\u202f%)" in said
    assert "2.10\u202fMB (+5.00\u202f%)" in said
    assert "perplexity +2.00\u202f%, measured as cpu-fp32" in said
    assert "perplexity: measured with the next stage" in said
    assert "perplexity +3.00\u202f%" in said
    bars = {
        str(bar.get("class")): float(bar.get("width", 0))
        for bar in drawing.iter("rect")
        if "bar" in str(bar.get("class"))
    }
    assert math.isclose(bars["bar added"] / curves.WIDTH, 0.01, abs_tol=1e-3)
    assert math.isclose(bars["bar saved"] / curves.WIDTH, 0.6, abs_tol=1e-3)


def test_steps_without_any_measurement_are_drawn_too() -> None:
    drawing = ET.fromstring(
        waterfall([Step("load", "load", None), Step("x", "x", None)], "t", "quality", "relative")
    )
    assert words(drawing).count("quality: measured with the next stage") == 2
