"""The fault hook: tests name a step in INGOT_FAULT, and the process kills itself there.

SIGKILL leaves no chance to clean up, so what the next process finds is what a crash would have left.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "INGOT_FAULT"

PUBLISH = (
    "publish.locked",
    "publish.written",
    "publish.hashed",
    "publish.recorded",
    "publish.synced",
    "publish.sealed",
    "publish.renamed",
    "publish.parent-synced",
    "publish.remembered",
)
RECORD = ("record.written", "record.renamed", "record.synced")
COLLECT = ("gc.forgotten", "gc.trashed")
LABELS = (*PUBLISH, *RECORD, *COLLECT)


def fault(label: str) -> None:
    """Ends this process with SIGKILL when INGOT_FAULT is ``label``; a label is one of :data:`LABELS`."""
    if os.environ.get(VARIABLE) == label:
        os.kill(os.getpid(), signal.SIGKILL)
