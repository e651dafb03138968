"""Targets side by side: what was verified where is what was measured where, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ingot.pipeline.gate import MetricResult
from ingot.pipeline.graph import Graph, Leaf, Node
from ingot.pipeline.measurements import Emulated
from ingot.pipeline.report.emulated import sentence
from ingot.pipeline.report.html import render_html
from ingot.pipeline.report.markdown import render_markdown
from ingot.pipeline.report.model import FileReport, TargetReport, summary
from ingot.pipeline.report.record import read_json, render_json
from ingot.pipeline.report.verified import side_by_side, told, verified
from ingot.stages import base


def graph(device: str) -> tuple[Graph, Leaf]:
    """A target whose cost is measured on a device."""
    quality, cost = (base.get(f"validate.{name}").params for name in ("quality", "cost"))
    nodes = {
        "export@t": Node("export@t", "export.onnx_nvidia", base.get("export.onnx_nvidia").params()),
        "quality@t": Node("quality@t", "validate.quality", quality()),
        "cost@t": Node("cost@t", "validate.cost", cost(device=device)),
    }
    leaf = Leaf("t", "nvidia", "export@t", "quality@t", "cost@t")
    return Graph(nodes, {"t": leaf}), leaf


@pytest.mark.parametrize(
    ("device", "made", "expected", "words"),
    [
        ("cpu", ("quality@t", "cost@t"), {"quality": "host", "cost": "host"}, "on this host"),
        ("cuda", ("quality@t", "cost@t"), {"quality": "host", "cost": "device"},
         "quality on this host, cost on the device"),
        ("cuda", ("quality@t",), {"quality": "host", "cost": ""}, "quality on this host, cost not at all"),
        ("cuda", (), {"quality": "", "cost": ""}, "not at all"),
    ],
)  # fmt: skip
def test_a_target_is_verified_where_it_was_measured(
    device: str, made: tuple[str, ...], expected: dict[str, str], words: str
) -> None:
    found, leaf = graph(device)
    results: Any = {name: SimpleNamespace(has_output=name in made) for name in found.nodes}
    assert verified(found, leaf, results) == expected
    assert told(TargetReport("t", "unverified", "nvidia", verified=expected)) == words


A76 = Emulated("cortex-a76", "perplexity", 32.38, 32.35, 512, 1_652_012, 261_993, 10_158_865, 40_796_160)


def test_emulated_processors_are_told_beside_the_rest_and_the_device_as_what_it_is() -> None:
    places = {"quality": "host", "cost": "host", "emulated": "emulated", "device": ""}
    target = TargetReport("t", "pass", "arm-mobile", verified=places, emulated=(A76,))
    assert told(target) == (
        "quality on this host and emulated (cortex-a76), cost on this host, on the device not at all"
    )
    without = replace(target, verified={**places, "emulated": ""}, emulated=())
    assert told(without) == (
        "quality on this host, cost on this host, emulated not at all, on the device not at all"
    )
    alone = replace(target, verified={**places, "quality": "", "cost": ""})
    assert told(alone).startswith("quality emulated (cortex-a76), cost not at all")
    assert told(replace(target, verified=dict.fromkeys(places, ""))) == "not at all"


def test_a_target_that_is_emulated_is_never_called_verified_on_its_device() -> None:
    found, leaf = graph("cpu")
    node = Node("emulated@t", "validate.emulated_arm", base.get("validate.emulated_arm").params())
    found = replace(found, nodes={**found.nodes, node.name: node})
    results: Any = {name: SimpleNamespace(has_output=True) for name in found.nodes}
    assert verified(found, replace(leaf, emulated=node.name), results) == {
        "quality": "host", "cost": "host", "emulated": "emulated", "device": "",
    }  # fmt: skip


def test_what_emulated_processors_measured_is_in_every_form_of_the_report(samples: ModuleType) -> None:
    report = samples.report(samples.target("arm-mobile", emulated=(A76,)))
    pages = {"html": render_html(report), "markdown": render_markdown(report)}
    for page in pages.values():
        for text in ("cortex-a76", "32.38", "32.35", "1,652,012", "261,993", "10,158,865", "40.8", "+0.09"):
            assert text in page
    assert "On emulated processors" in pages["html"]
    assert read_json(render_json(report)) == report
    told_of = summary(report, "report.html")["targets"]["arm-mobile"]["emulated"]  # type: ignore[index]
    assert told_of["cortex-a76"]["instructions"] == 1_652_012
    assert "On emulated processors" not in render_html(samples.report(samples.target("cpu")))
    assert "a decoded one" in sentence(A76)
    assert "decoded" not in sentence(replace(A76, decode_instructions=None))


def targets() -> list[TargetReport]:
    metric = MetricResult(50.0, 50.5, 0.01, 0.0, 0.02, 100, 1000, 100, "ppl", "lower", "relative")
    return [
        TargetReport("cpu", "pass", "cpu", metrics={"perplexity": metric}, kind="onnx",
                     verified={"quality": "host", "cost": "host"}),
        TargetReport("nvidia-engine", "unverified", "nvidia", kind="tensorrt-engine",
                     files=(FileReport("model.engine", 12_000_000, "0" * 64),),
                     verified={"quality": "", "cost": ""}),
    ]  # fmt: skip


def test_a_line_has_what_was_measured_and_dashes_for_the_rest() -> None:
    first, second = side_by_side(targets())
    assert (first.artifact, first.verified) == ("onnx", "on this host")
    assert "50.5" in first.quality
    assert (second.artifact, second.verified, second.quality, second.cost) == (
        "tensorrt-engine", "not at all", "–", "–",
    )  # fmt: skip
    assert second.size.startswith("12.0")


def test_one_target_and_the_cells_of_a_matrix_are_not_compared_here() -> None:
    assert side_by_side(targets()[:1]) == ()
    cells = [replace(each, cell_of="cpu") for each in targets()]
    assert side_by_side(cells) == ()


def test_the_pages_say_what_was_verified_where(samples: ModuleType) -> None:
    made = [
        samples.target("cpu", verified={"quality": "host", "cost": "host"}, kind="onnx"),
        samples.target("nvidia", verified={"quality": "host", "cost": ""}, kind="onnx"),
    ]
    report = samples.report(*made)
    markdown, page = render_markdown(report), render_html(report)
    for text in ("quality on this host, cost not at all", "Verified"):
        assert text in markdown
        assert text in page
    assert "Targets side by side" in page
    assert "Targets side by side" not in render_html(samples.report(made[0]))
