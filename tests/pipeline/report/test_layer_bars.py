"""Bars of layers: heights by error, numbers where they fit, and words for those who do not see them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from ingot.pipeline.report.layer_bars import HEIGHT, layer_bars
from ingot.pipeline.report.parts import LayerError


def heights(plot: str, kind: str) -> list[float]:
    root = ET.fromstring(plot)
    return [float(bar.get("height")) for bar in root.iter("rect") if bar.get("class") == f"bar {kind}"][:-1]


def test_bars_are_as_high_as_errors_are_large() -> None:
    plot = layer_bars([LayerError("0", 0.02, 0.08), LayerError("1", 0.04, 0.05)])
    assert heights(plot, "saved") == pytest.approx([HEIGHT, HEIGHT * 5 / 8], abs=0.01)
    assert heights(plot, "artifact") == pytest.approx([HEIGHT / 4, HEIGHT / 2], abs=0.01)
    assert "layer 1: 4.00 %, plain rounding 5.00 %" in plot


@pytest.mark.parametrize(("layers", "numbers"), [(12, 12), (80, 2)])
def test_of_many_layers_only_the_first_and_the_last_are_numbered(layers: int, numbers: int) -> None:
    plot = layer_bars([LayerError(f"L{n}", 0.1, 0.2) for n in range(layers)])
    assert len(re.findall(r">L\d+<", plot)) == numbers


def test_layers_without_any_error_are_drawn_all_the_same() -> None:
    assert heights(layer_bars([LayerError("0", 0.0, 0.0)]), "artifact") == [0.0]
