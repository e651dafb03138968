"""Puts a report where people and machines find it: in the run's directory, beside the deliveries, in CI."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ...artifacts.files import remove_halves, storage, write_whole
from .html import render_html
from .junit import render_junit
from .markdown import render_markdown
from .record import render_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...artifacts.store import Store
    from .model import RunReport

DIRECTORY = "report"
HTML = "report.html"
MARKDOWN = "report.md"
JUNIT = "junit.xml"
JSON = "gate.json"
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def render_all(report: RunReport) -> dict[str, str]:
    """Every form of a report by its file's name."""
    return {
        HTML: render_html(report),
        MARKDOWN: render_markdown(report),
        JUNIT: render_junit(report),
        JSON: render_json(report),
    }


def publish_report(store: Store, report: RunReport, run_directory: Path, out: Path) -> Path:
    """Writes all forms to ``run_directory/report/`` and to ``out``, and to the CI's summary page if there is
    one; the path of the HTML report in ``out``. Raises StoreError when the disk refuses.
    """
    forms = render_all(report)
    with store.lock_of(out):
        for directory in (run_directory / DIRECTORY, out):
            with storage(directory):
                directory.mkdir(parents=True, exist_ok=True)
                for name, text in forms.items():
                    remove_halves(directory / name)
                    write_whole(directory / name, text)
    append_step_summary(forms[MARKDOWN], os.environ)
    return out / HTML


def append_step_summary(markdown: str, environment: Mapping[str, str]) -> None:
    """Adds the Markdown to the summary of a GitHub Actions step, whose file the environment names."""
    place = environment.get(STEP_SUMMARY)
    if not place:
        return
    from pathlib import Path

    path = Path(place)
    with storage(path), path.open("a", encoding="utf-8") as stream:
        stream.write(f"{markdown}\n")
