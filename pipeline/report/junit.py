"""The report as JUnit XML: a suite for each target, a case for each check.

Only a pass is green: a check that fails, and one that is inconclusive, are failures of the types `fail` and
`inconclusive`; a target whose stage failed has an error, and an unverified one a skipped case.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..gate import Check
    from .model import RunReport, TargetReport

# What XML 1.0 cannot hold, section 2.2, which lists the rest; this way round it compiles ten times as fast.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def render_junit(report: RunReport) -> str:
    """The XML document, as CI servers read it."""
    suites = _element("testsuites", {"name": f"ingot {report.model.name}", "time": f"{report.seconds:.3f}"})
    for target in report.targets.values():
        suites.append(_suite(report, target))
    for count in ("tests", "failures", "errors", "skipped"):
        suites.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _suite(report: RunReport, target: TargetReport) -> ET.Element:
    seconds = sum(node.seconds or 0 for node in report.nodes if node.target == target.name)
    suite = _element(
        "testsuite", {"name": target.name, "timestamp": report.started[:19], "time": f"{seconds:.3f}"}
    )
    properties = ET.SubElement(suite, "properties")
    stated = {
        "run": report.run,
        "ingot": report.version,
        "status": target.status,
        "profile": target.profile,
        "artifact": target.artifact or "",
        "delivery": target.delivery or "",
    }
    properties.extend(_element("property", {"name": name, "value": value}) for name, value in stated.items())
    cases = [_case(target, check) for check in target.checks]
    if target.status in ("error", "unverified"):
        cases.append(_unfinished(target))
    suite.extend(cases)
    suite.set("tests", str(len(cases)))
    for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(count, str(sum(case.find(tag) is not None for case in cases)))
    return suite


def _case(target: TargetReport, check: Check) -> ET.Element:
    case = _element("testcase", {"classname": target.name, "name": f"{check.metric} {check.bound}"})
    if check.status == "pass":
        ET.SubElement(case, "system-out").text = _clean(check.message)
        return case
    failure = _element("failure", {"type": check.status, "message": check.message})
    failure.text = _clean(
        f"{check.message}\nlimit from {check.origin}; {check.method}, alpha {check.alpha:g}"
    )
    case.append(failure)
    return case


def _unfinished(target: TargetReport) -> ET.Element:
    case = _element("testcase", {"classname": target.name, "name": "built and measured"})
    message = target.explanation or "nothing was held against a limit"
    if target.status == "error":
        case.append(_element("error", {"type": "stage", "message": message}))
    else:
        case.append(_element("skipped", {"message": message}))
    return case


def _element(tag: str, attributes: Mapping[str, str]) -> ET.Element:
    return ET.Element(tag, {name: _clean(value) for name, value in attributes.items()})


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
