"""The manifest of a delivery: where it is from, how it was made, what it measured, what it needs, its files.

Paths in it are relative to the delivery. It is written once and never changed: what is found out later, on
the device, goes beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from .report.model import metric_summary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..artifacts.manifest import Artifact
    from .gate import Check
    from .report.model import RunReport, TargetReport

SCHEMA = "ingot/delivery/v1"
MANIFEST = "manifest.json"
CHECK_FIELDS = (
    "metric", "status", "rule", "limit", "compared", "estimate", "low", "high", "method", "alpha", "message",
)  # fmt: skip


def manifest(
    report: RunReport, target: TargetReport, artifact: Artifact, files: Mapping[str, tuple[int, str]]
) -> dict[str, object]:
    """The content of `manifest.json`; files: path → size in bytes and SHA-256, of all but the manifest."""
    model = report.model
    source = {
        "uri": model.uri,
        "revision": model.revision,
        "license": model.license,
        "artifact": model.digest,
    }
    return {
        "schema": SCHEMA,
        "name": f"{model.name}-{target.name}",
        "target": target.name,
        "profile": target.profile,
        "status": target.status,
        "ingot": report.version,
        "run": report.run,
        "created": report.started,
        "artifact": artifact.digest,
        "kind": artifact.kind,
        "sources": [{name: value for name, value in source.items() if value is not None}],
        "data": [
            {"role": data.role, "name": data.name, "sha256": data.sha256, "bundled": data.is_bundled}
            for data in report.data
        ],
        "lineage": list(target.lineage),
        "stages": dict(target.recipe),
        "weights_by_width": {width.name: asdict(width) for width in target.widths},
        "measurements": {name: metric_summary(metric) for name, metric in target.metrics.items()},
        "gates": {"verdict": target.status, "checks": [_check(check) for check in target.checks]},
        "runtime": {"format": target.format, "requires": dict(target.requires)},
        "files": [
            {"path": path, "size": size, "sha256": sha256} for path, (size, sha256) in sorted(files.items())
        ],
    }


def _check(check: Check) -> dict[str, object]:
    return {name: getattr(check, name) for name in CHECK_FIELDS}


def is_delivery(directory: Path) -> bool:
    """Whether a directory holds a manifest of this kind, so that it may be replaced."""
    try:
        value = json.loads((directory / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and str(value.get("schema", "")).startswith("ingot/delivery/")
