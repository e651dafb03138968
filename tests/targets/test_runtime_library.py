"""onnxruntime is imported in one place, and tells nobody anything."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import ingot

ROOT = Path(ingot.__file__).parent
OPEN = (
    "import sys; from pathlib import Path\n"
    "from ingot.targets.runtimes import onnx\n"
    "onnx.open(Path(sys.argv[1]), threads=1).close()\n"
)
NAKED = (
    "import sys, onnxruntime; from pathlib import Path\n"
    "onnxruntime.InferenceSession(str(Path(sys.argv[1], 'model.onnx')), providers=['CPUExecutionProvider'])\n"
)


def files_left_by(script: str, toy: Path, folder: Path) -> list[str]:
    """What a process leaves in its temporary directory and its home, started as no CI system would."""
    folder.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "HOME": str(folder)}
    subprocess.run([sys.executable, "-c", script, str(toy)], env=environment, check=True, timeout=120)
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_session_leaves_no_trace_of_telemetry_where_onnxruntime_alone_does(tmp_path: Path) -> None:
    from .toy import write_toy

    toy = write_toy(tmp_path / "toy")
    assert files_left_by(OPEN, toy, tmp_path / "ours") == []
    assert ".ses" in files_left_by(NAKED, toy, tmp_path / "theirs")


def test_nothing_else_imports_it() -> None:
    found = []
    for room in ("artifacts", "targets", "stages", "pipeline"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
                if any(name.partition(".")[0] == "onnxruntime" for name in names):
                    found.append(path.relative_to(ROOT).as_posix())
    # The runner is a program of the emulated machine, whose environment says it.
    assert sorted(found) == ["targets/emulated/runner.py"] + ["targets/runtimes/library.py"] * 2
