"""Remembers verdicts, so that judging equal measurements again costs a small file and no import of numpy.

A verdict follows from the bounds, the measurements and the code that judges (the gate's and numpy's) alone;
its name is the SHA-256 of all of them. A memory that is lost, damaged or not writable costs one
evaluation and nothing else.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from ..artifacts.digest import digest_json
from ..artifacts.files import unique_name
from .gate import GateReport, evaluate
from .keys import installed_version
from .plain import from_plain, to_plain
from .sources import source_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..artifacts.store import Store
    from .measurements import Measurements
    from .rules import Bound


def judge(
    store: Store, bounds: Sequence[Bound], quality: Measurements | None, cost: Measurements | None
) -> GateReport:
    """What :func:`ingot.pipeline.gate.evaluate` says, from memory where it was asked before."""
    key = digest_json({
        "gate": source_digest(evaluate.__module__),
        "numpy": installed_version("numpy"),
        "bounds": [[bound.metric.name, bound.kind, bound.limit, bound.origin] for bound in bounds],
        "measurements": [part.digest if part else None for part in (quality, cost)],
    })  # fmt: skip
    path = store.root / "stats" / "verdicts" / f"{key}.json"
    known = _recall(path)
    if known is not None:
        return known
    verdict = evaluate(bounds, quality, cost)
    with contextlib.suppress(OSError):  # a read-only or full disk costs time here, not correctness
        _remember(path, verdict)
    return verdict


def _recall(path: Path) -> GateReport | None:
    try:
        kept = json.loads(path.read_bytes())
        is_whole = kept["sha256"] == digest_json(kept["verdict"])
        return from_plain(GateReport, kept["verdict"]) if is_whole else None
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None  # a memory that cannot be read is no memory


def _remember(path: Path, verdict: GateReport) -> None:
    plain = to_plain(verdict)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{unique_name()}")
    try:
        kept = {"sha256": digest_json(plain), "verdict": plain}
        beside.write_text(json.dumps(kept, allow_nan=False), encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
