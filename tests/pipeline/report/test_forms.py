"""The other forms of a report: JUnit XML, Markdown, gate.json, and where they are put."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from ingot.artifacts.errors import CorruptError, StoreError
from ingot.pipeline.report import model, publish
from ingot.pipeline.report.junit import render_junit
from ingot.pipeline.report.markdown import render_markdown
from ingot.pipeline.report.record import read_json, render_json

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from ingot.artifacts.store import Store


@pytest.fixture
def mixed(samples: ModuleType) -> model.RunReport:
    """One target of every status."""
    return samples.report(
        samples.target("good", change=0.001),
        samples.target("unsure", change=0.019, delivery=None),
        samples.target("bad", change=0.09, delivery=None),
        samples.target("remote", status="unverified", checks=(), explanation="no such device here"),
        model.TargetReport("broken", "error", "cpu", explanation="export@broken: out of memory"),
    )


def test_junit_counts_what_it_holds(mixed: model.RunReport) -> None:
    root = ET.fromstring(render_junit(mixed))
    assert root.tag == "testsuites"
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["good", "unsure", "bad", "remote", "broken"]
    for suite in suites.values():
        cases = suite.findall("testcase")
        assert int(suite.get("tests", "")) == len(cases)
        for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(count, "")) == len(suite.findall(f"testcase/{tag}"))
        assert all(case.get("classname") and case.get("name") for case in cases)
        properties = {p.get("name"): p.get("value") for p in suite.findall("properties/property")}
        assert properties["status"] == mixed.targets[str(suite.get("name"))].status
    for count in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(count, "")) == sum(int(suite.get(count, "")) for suite in suites.values())
    assert [int(root.get(count, "")) for count in ("failures", "errors", "skipped")] == [2, 1, 1]


def test_junit_is_green_for_a_pass_alone(mixed: model.RunReport) -> None:
    root = ET.fromstring(render_junit(mixed))
    kinds = {suite.get("name"): {f.get("type") for f in suite.iter("failure")} for suite in root}
    assert kinds == {
        "good": set(),
        "unsure": {"inconclusive"},
        "bad": {"fail"},
        "remote": set(),
        "broken": set(),
    }
    failure = root.find(".//failure[@type='fail']")
    assert failure is not None
    assert "breaks the limit" in str(failure.get("message"))
    assert "ingot.yaml:9" in str(failure.text)


def test_junit_survives_what_xml_cannot_hold(samples: ModuleType) -> None:
    name = 'a\x00b\x1b[31m<&"]]>\ud800'
    target = dataclasses.replace(samples.target("cpu"), status="error", explanation=name)
    text = render_junit(samples.report(target))
    error = ET.fromstring(text).find(".//error")
    assert error is not None
    assert error.get("message") == 'a�b�[31m<&"]]>�'


def test_markdown_has_a_row_for_every_metric(mixed: model.RunReport) -> None:
    text = render_markdown(mixed)
    assert text.startswith("<!-- ingot report -->\n## 🛑 Error: ingot-tiny")
    compared, *tables = re.findall(r"\|---\|(?:---:\|)+\n((?:\|.*\n)+)", text)
    assert compared.count("\n") == len(mixed.targets)
    with_metrics = [target for target in mixed.targets.values() if target.metrics]
    assert [table.count("\n") for table in tables] == [len(target.metrics) for target in with_metrics]
    assert all(row.count(" | ") == 6 for table in tables for row in table.splitlines())
    assert "more document" in text
    assert "Delivered to `ingot-out/good`." in text


def test_markdown_escapes_names(samples: ModuleType) -> None:
    report = samples.report(samples.target("cpu"), command="ingot run `x`\nrm")
    hostile = dataclasses.replace(report.model, name="<script>a|b*c*\n# d")
    text = render_markdown(dataclasses.replace(report, model=hostile))
    assert "&lt;script&gt;a\\|b\\*c\\* \\# d" in text
    assert "<script>" not in text
    assert "Again: `ingot run 'x' rm`" in text


def test_gate_json_reads_back_as_the_report_it_was(mixed: model.RunReport) -> None:
    text = render_json(mixed)
    assert read_json(text) == mixed
    top = json.loads(text)
    assert (top["schema"], top["verdict"], top["exit_code"]) == ("ingot/gate/v1", "error", 4)
    assert top["targets"]["bad"]["checks"][0]["status"] == "fail"


def test_a_report_of_an_older_version_reads_without_what_it_did_not_have(mixed: model.RunReport) -> None:
    older = json.loads(render_json(mixed))
    for target in older["targets"].values():
        del target["golden"], target["weights"]
    found = read_json(json.dumps(older))
    assert found.targets["good"] == dataclasses.replace(mixed.targets["good"], golden=(), weights=())
    del older["run"]
    with pytest.raises(CorruptError):
        read_json(json.dumps(older))


def test_gate_json_holds_no_nan_even_when_the_measurements_do(samples: ModuleType) -> None:
    from ingot.pipeline.gate import evaluate

    columns = samples.windows()
    columns["nll_value"][3] = math.nan
    verdict = evaluate(samples.bounds(perplexity={"max": 30}), samples.quality_of(columns), None)
    target = samples.target("cpu", metrics=verdict.metrics, checks=verdict.checks, status="fail")
    report = samples.report(target)
    assert read_json(render_json(report)) == report


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": "ingot/gate/v9"}', '{"schema": "ingot/gate/v1"}']
)
def test_another_file_is_no_gate_report(text: str) -> None:
    with pytest.raises(CorruptError):
        read_json(text)


def test_the_summary_has_the_shape_that_json_output_promises(mixed: model.RunReport) -> None:
    found = json.loads(json.dumps(model.summary(mixed, "ingot-out/report.html"), allow_nan=False))
    assert {name: found[name] for name in ("run", "verdict", "exit_code", "report")} == {
        "run": mixed.run, "verdict": "error", "exit_code": 4, "report": "ingot-out/report.html",
    }  # fmt: skip
    good = found["targets"]["good"]
    assert set(good) == {"status", "delivery", "artifact", "verified", "files", "metrics"}
    assert set(good["metrics"]["perplexity"]) == {
        "reference", "value", "delta", "low", "high", "n", "tokens", "documents", "unit",
    }  # fmt: skip
    assert set(good["metrics"]) >= {
        "perplexity", "kl_divergence", "top1_agreement", "size_bytes", "load_ms", "prefill_ms", "decode_ms",
        "tokens_per_second", "peak_memory_bytes",
    }  # fmt: skip


def test_reports_are_put_in_both_places_and_in_the_step_summary(
    store: Store, mixed: model.RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    half = tmp_path / "out" / ".report.html.0123456789abcdef"  # what a killed process left
    half.parent.mkdir()
    half.write_text("<html>")
    page = publish.publish_report(store, mixed, tmp_path / "run", tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    names = {"report.html", "report.md", "junit.xml", "gate.json"}
    for directory in (tmp_path / "run" / "report", tmp_path / "out"):
        assert {path.name for path in directory.iterdir()} == names
    markdown = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert (tmp_path / "summary.md").read_text("utf-8").strip() == markdown.strip()


def test_a_disk_that_refuses_a_report_is_told_as_such(
    store: Store, mixed: model.RunReport, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        publish.publish_report(store, mixed, tmp_path / "run", tmp_path / "file")
