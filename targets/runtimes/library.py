"""onnxruntime, imported in one place, and silenced there.

Its Linux builds since 1.29 send telemetry unless told otherwise: what a session is created from, the names of
files and graphs included, and a file in the temporary directory that names the session. Ingot sends nothing.
"""

from __future__ import annotations

import os
from typing import Any

SILENCE = "ORT_DISABLE_TELEMETRY"


def import_onnxruntime() -> Any:
    """The module onnxruntime; raises ImportError where it is not installed.

    It reads the variable while it is imported. Where somebody imported it before, only what follows is kept
    to itself.
    """
    os.environ[SILENCE] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def import_operator_tools() -> Any:
    """onnxruntime's module that lists the operators of models, which comes with it."""
    import_onnxruntime()
    from onnxruntime.tools import ort_format_model

    return ort_format_model
