"""Compiles one program of an artifact of kind `aoti`: the process that `compile_packages` starts for each.

    python -m ingot.targets.runtimes.compiling ARTIFACT ABOUT PROGRAM DEVICE DIRECTORY

ABOUT is what `ingot.json` says. On a failure the log has what the compiler said, PROGRAM.error a line of it.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from .program import compile_program


def main() -> int:
    """The exit code: 0 for a package, 1 without."""
    path, about, name, device, into = sys.argv[1:]
    try:
        compile_program(Path(path), json.loads(about), device, name, Path(into))
    except Exception as error:  # noqa: BLE001 - compilers raise of all kinds
        traceback.print_exception(error)  # for the log: compilers say much more than a line
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        (Path(into) / f"{name}.error").write_text(reason, "utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
