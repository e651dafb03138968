"""The manifest of a delivery: where it is from, how it was made, what it measured, what it needs, its files.

Paths in it are relative to the delivery. It is written once and never changed: what is found out later, on
the device, goes beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .report.model import emulated_summary, metric_summary

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from ..artifacts.manifest import Artifact
    from .gate import Check
    from .report.model import RunReport, TargetReport

SCHEMA = "ingot/delivery/v1"
MANIFEST = "manifest.json"
VERIFICATIONS = "verifications"
CHECK_FIELDS = (
    "metric", "status", "rule", "limit", "compared", "estimate", "low", "high", "method", "alpha", "message",
)  # fmt: skip


def manifest(
    report: RunReport,
    target: TargetReport,
    artifact: Artifact,
    files: Mapping[str, tuple[int, str]],
    validation: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `manifest.json`.

    files: path → size in bytes and SHA-256, of all but the manifest.  validation: see `evidence.py`.
    """
    sources = (
        {"uri": each.uri, "revision": each.revision, "license": each.license, "artifact": each.digest}
        for each in target.sources
    )
    return {
        "schema": SCHEMA,
        "name": f"{report.model.name}-{target.name}",
        "target": target.name,
        "profile": target.profile,
        "status": target.status,
        "ingot": report.version,
        "run": report.run,
        "created": report.started,
        "artifact": artifact.digest,
        "kind": artifact.kind,
        "sources": [
            {name: value for name, value in source.items() if value is not None} for source in sources
        ],
        "data": [
            {"role": data.role, "name": data.name, "sha256": data.sha256, "bundled": data.is_bundled}
            for data in report.data
        ],
        "lineage": list(target.lineage),
        "stages": dict(target.recipe),
        "weights_by_width": {width.name: asdict(width) for width in target.widths},
        # Seconds are of one occasion; a manifest of the same build is the same.
        "weights": {
            name: {key: value for key, value in entry.items() if key != "cpu_seconds"}
            for name, entry in target.evidence.items()
        },
        "measurements": {name: metric_summary(metric) for name, metric in target.metrics.items()},
        **({"emulated": emulated_summary(target.emulated)} if target.emulated else {}),
        "gates": {"verdict": target.status, "checks": [check_json(check) for check in target.checks]},
        "validation": dict(validation),
        "runtime": {"format": target.format, "requires": dict(target.requires)},
        "files": [
            {"path": path, "size": size, "sha256": sha256} for path, (size, sha256) in sorted(files.items())
        ],
    }


def check_json(check: Check) -> dict[str, object]:
    """A check as manifests and verifications record it."""
    return {name: getattr(check, name) for name in CHECK_FIELDS}


def without_occasion(value: Mapping[str, Any], rendered: Collection[str]) -> dict[str, Any]:
    """A manifest without what differs between two runs that found the same: when, and what was rendered."""
    files = [file for file in value["files"] if file["path"] not in rendered]
    return {**{key: item for key, item in value.items() if key not in ("run", "created")}, "files": files}


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest in a directory; None when it holds none of this kind, so that it is no delivery."""
    try:
        value = json.loads((directory / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = (
        isinstance(value, dict) and value.get("schema") == SCHEMA and isinstance(value.get("files"), list)
    )
    return value if is_ours else None
