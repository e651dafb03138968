"""gate.json: a report written down, and read back."""

from __future__ import annotations

import json

from ...artifacts.errors import CorruptError
from ..plain import from_plain, to_plain
from .model import RunReport

SCHEMA = "ingot/gate/v1"


def render_json(report: RunReport) -> str:
    """gate.json: every field of the report, with its schema, verdict and exit code at the top."""
    head = {"schema": SCHEMA, "verdict": report.verdict, "exit_code": report.exit_code}
    return json.dumps({**head, **to_plain(report)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(text: str, *, where: str = "gate.json") -> RunReport:
    """The inverse of :func:`render_json`; raises CorruptError for another shape."""
    try:
        value = json.loads(text)
        schema, report = value["schema"], from_plain(RunReport, value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptError(f"not a gate report ({type(error).__name__}: {error})", where=where) from None
    if schema != SCHEMA:
        raise CorruptError(f"gate report of schema {schema!r}, not {SCHEMA!r}", where=where)
    return report
