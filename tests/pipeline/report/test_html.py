"""The HTML report: whole, self-contained, escaped, and saying what was found."""

from __future__ import annotations

import dataclasses
import re
import time
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from ingot.pipeline.report.html import headlines, render_html

if TYPE_CHECKING:
    from types import ModuleType

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Checks that elements nest, and collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def three(samples: ModuleType) -> object:
    return samples.report(
        samples.target("cpu-int8", change=0.001),
        samples.target("cpu-int4", change=0.019, delivery=None),
        samples.target("cpu-int2", change=0.09, delivery=None),
    )


def test_the_page_nests_and_its_drawings_are_xml(three: object) -> None:
    page = render_html(three)
    outline(page)
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) > 25
    for drawing in drawings:
        root = ET.fromstring(drawing)
        assert root.get("role") == "img"
        assert root.findtext("title")


def test_nothing_is_loaded_and_nothing_runs(three: object) -> None:
    found = outline(render_html(three))
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "use", "image", "foreignobject"}
    policy = next(
        a for t, a in found.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy["content"].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    for _, attributes in found.tags:
        assert not {name for name in attributes if name.startswith("on") or name in ("href", "src", "style")}
    style = re.search(r"<style>(.*?)</style>", render_html(three), flags=re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_hostile_names_are_shown_as_text(samples: ModuleType) -> None:
    evil = '"><script>alert(1)</script><svg onload=x>{{ 7*7 }}'
    target = dataclasses.replace(
        samples.target("cpu"), name=evil, explanation=evil, notes=(evil,), delivery=evil
    )
    report = samples.report(target, command=evil, recipe=evil, notes=(evil,), environment={evil: evil})
    model = dataclasses.replace(report.model, name=evil, license=evil, uri=evil)
    nodes = tuple(
        dataclasses.replace(node, name=evil + node.name, reason=evil, error=evil, params={evil: evil})
        for node in report.nodes
    )
    page = render_html(dataclasses.replace(report, model=model, nodes=nodes))
    found = outline(page)
    assert "script" not in {tag for tag, _ in found.tags}
    assert "{{ 7*7 }}" in "".join(found.text)
    assert not any("onload" in attributes for _, attributes in found.tags)


def test_the_verdict_comes_first(three: object) -> None:
    text = " ".join("".join(outline(render_html(three)).text).split())
    assert text.index("Fail: ingot-tiny") == 0
    assert "3 targets: 1 pass, 1 inconclusive, 1 fail" in text
    assert (
        text.index("A limit is broken.")
        < text.index("Reference against artifact")
        < text.index("How it was made")
    )


def test_every_check_limit_and_interval_is_in_the_page(three: object) -> None:
    text = " ".join("".join(outline(render_html(three)).text).split())
    for target in three.targets.values():  # type: ignore[attr-defined]
        for check in target.checks:
            assert " ".join(check.message.split()) in text
    assert "about" in text
    assert "more documents would decide" in text


def test_a_run_that_failed_early_has_a_report_too(samples: ModuleType) -> None:
    from ingot.pipeline.report import model

    target = model.TargetReport(
        "cpu", "error", "cpu", explanation="export@cpu: the worker was killed by signal 9"
    )
    failed = tuple(
        dataclasses.replace(
            node, state="failed" if node.name == "export@cpu" else node.state, seconds=None,
            max_rss_bytes=None, artifact=None, error="killed" if node.name == "export@cpu" else None,
        )
        for node in samples.nodes("cpu")
    )  # fmt: skip
    page = render_html(samples.report(target, nodes=failed))
    text = "".join(outline(page).text)
    assert "the worker was killed by signal 9" in text
    assert "A stage failed." in text
    assert "Not delivered." in text


def test_an_encoder_has_no_perplexity_and_a_page(samples: ModuleType) -> None:
    from ingot.pipeline.gate import evaluate
    from ingot.pipeline.report.documents import document_deltas

    columns = {"document": [0, 0, 1, 2], "tokens": [9, 8, 7, 6], "cosine": [0.999, 0.998, 0.997, 0.9995]}
    quality = samples.quality_of(columns, task="encoder")
    verdict = evaluate(samples.bounds(cosine={"min": "99%"}), quality, None)
    target = samples.target(
        "cpu", metrics=verdict.metrics, checks=verdict.checks, documents=document_deltas(quality), timings=()
    )
    text = "".join(outline(render_html(samples.report(target))).text)
    assert "Cosine similarity" in text
    assert "Perplexity" not in text


def test_headlines_say_size_quality_and_speed(samples: ModuleType) -> None:
    lines = {line.label: line for line in headlines(samples.target("cpu"))}
    assert lines["of the size"].value == "0.17 ×"
    assert lines["perplexity"].value.startswith("+0.")
    assert lines["prefill speed"].value == "2.0 ×"


def test_a_page_takes_less_than_150_milliseconds(samples: ModuleType) -> None:
    report = samples.report(samples.target("cpu"))
    render_html(report)
    started = time.process_time()
    for _ in range(5):
        render_html(report)
    assert (time.process_time() - started) / 5 < 0.15
