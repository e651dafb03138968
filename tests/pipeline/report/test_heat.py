"""Figures of shaded cells: where cells stand, how dark they are, and that their words can be read."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline.report import heat, html
from ingot.pipeline.report.parts import WeightGroup

if TYPE_CHECKING:
    from types import ModuleType

STYLE = Path(html.__file__).with_name("style.css").read_text("utf-8")
READABLE = 4.5  # WCAG 2.2, criterion 1.4.3


def words(drawing: ET.Element) -> list[str]:
    return [str(text.text) for text in drawing.iter("text")]


def test_a_cell_says_time_tokens_a_second_and_how_many_times_as_fast(samples: ModuleType) -> None:
    cells = samples.sweep(batches=(1, 4), sequences=(32,))
    drawing = ET.fromstring(heat.sweep_grid(cells, "value", "prefill_ms", "reference", 10_000))
    # 4 · 32 tokens at 0.1 ms each.
    assert words(drawing)[-3:] == ["12.8\u202fms", "10,000/s", "2.0\u202f×"]
    alone = ET.fromstring(heat.sweep_grid(cells, "value", "decode_ms", None, 1000))
    assert words(alone)[-2:] == ["4.00\u202fms", "1,000/s"]
    assert "batch 4, 32 tokens: 4.00\u202fms, 1,000/s" in str(alone.findtext("desc"))


def test_the_fastest_cell_of_all_is_the_darkest(samples: ModuleType) -> None:
    cells = samples.sweep(batches=(1, 2, 4), sequences=(32,))
    best = heat.best_rate(cells, ("value",), "decode_ms")
    assert best == pytest.approx(1000)
    drawing = ET.fromstring(heat.sweep_grid(cells, "reference", "decode_ms", None, best))
    shades = [rect.get("class") for rect in drawing.iter("rect")]
    assert shades == ["cell h3"] * 3  # half as fast as the best


def test_every_layer_has_a_cell_and_a_row_ends_with_its_sum(samples: ModuleType) -> None:
    drawing = ET.fromstring(heat.width_grid(samples.weights(layers=4)))
    boxes = "".join(str(path.get("d")) for path in drawing.iter("path"))
    assert boxes.count("M") == 7 * 4 + 2
    assert "int4 · 655\u202fkB" in words(drawing)  # 4 layers of 163,840 bytes
    assert "fp32 · 9.22\u202fkB" in words(drawing)


def test_a_row_of_several_widths_names_them_in_its_cells(samples: ModuleType) -> None:
    groups = list(samples.weights(layers=2))
    groups[0] = dataclasses.replace(groups[0], width="int8")
    drawing = ET.fromstring(heat.width_grid(groups))
    assert [word for word in words(drawing) if word in ("4", "8")] == ["8", "4"]
    assert any(word.startswith("mixed · ") for word in words(drawing))


def test_the_layer_that_was_rounded_worst_is_darker_than_the_others(samples: ModuleType) -> None:
    drawing = ET.fromstring(heat.error_grid(samples.weights(layers=4)))
    counts = {path.get("class"): str(path.get("d")).count("M") for path in drawing.iter("path")}
    # 7 roles: 3 layers at the median of 8 %, one at 12 %; and an embedding at 0.5 %.
    assert counts == {"cell h0": 1, "cell h2": 21, "cell h3": 7}
    assert "12.0\u202f%" in words(drawing)


@given(st.floats(1e-6, 1), st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_a_larger_error_is_never_lighter(first: float, second: float, median: float) -> None:
    low, high = sorted((first, second))
    assert heat.error_shade(low, median) <= heat.error_shade(high, median) < heat.LEVELS
    assert heat.error_shade(median, median) == 2


def test_more_bits_are_darker_whatever_the_names() -> None:
    shades = [heat.bit_shade(width) for width in ("int2", "int3", "int4", "int8", "float16", "float32")]
    assert shades == sorted(set(shades))
    assert heat.bit_shade("int4, int8") == heat.bit_shade("int8")


def test_a_deep_network_is_drawn_without_words_and_in_few_bytes() -> None:
    groups = [
        WeightGroup(role, layer, "int4", 1, 10, 5, 0.08 + layer / 1000)
        for role in ("q", "k", "v", "o", "gate", "up", "down")
        for layer in range(80)
    ]
    drawing = heat.error_grid(groups)
    assert len(drawing) < 20_000
    assert [word for word in words(ET.fromstring(drawing)) if word.isdigit()] == ["0", "79"]


def colours(scheme: str) -> dict[str, str]:
    """The custom properties of a colour scheme."""
    light, _, dark = STYLE.partition("@media (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    if scheme == "dark":
        found |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark.partition("* {")[0]))
    return found


def luminance(rgb: list[float]) -> float:
    """Relative luminance as WCAG 2.2 defines it; rgb from 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def rgb(colour: str) -> list[float]:
    return [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_on_every_shade(scheme: str) -> None:
    found = colours(scheme)
    ink, paper, accent = (rgb(found[name]) for name in ("ink", "paper", "accent"))
    opacities = [float(value) for value in re.findall(r"\.h\d \{ fill-opacity: ([\d.]+)", STYLE)]
    assert len(opacities) == heat.LEVELS
    assert opacities == sorted(opacities)
    for level, opacity in enumerate(opacities):
        shade = [a * opacity + p * (1 - opacity) for a, p in zip(accent, paper, strict=True)]
        word = paper if level >= heat.FIRST_DARK else ink
        light, dark = sorted((luminance(word), luminance(shade)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= READABLE, (scheme, level)
