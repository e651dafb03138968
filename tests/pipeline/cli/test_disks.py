"""Disks that are full, limited, closed or read-only: one clear error, and a store that goes on working."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Ended, Ingot, Workplace

    Here = Callable[..., Ended]

NOBODY = 65534
LIMITED = (
    "import resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
    "from ingot.pipeline.cli import main\n"
    "main(sys.argv[1:])\n"
)


def test_a_file_that_the_disk_refuses_is_one_error_and_leaves_nothing_half_written(
    ingot: Ingot, model: Path, text: Path, tmp_path: Path
) -> None:
    line = ("run", "--model", model, "--target", "cpu-int8", "--evaluation", text, "--store", "st",
            "--out", "out", "--set", "cost.repeats=1")  # fmt: skip
    ended = ingot.by(sys.executable, "-P", "-c", LIMITED)(*line)
    ended.refuses("a file is larger than the file system or its limits allow", "st/tmp/")
    assert list((tmp_path / "st" / "tmp").iterdir()) == []
    assert list((tmp_path / "st" / "trees").iterdir()) == []
    assert not (tmp_path / "out" / "cpu-int8").exists()
    assert ingot("verify", "--store", "st").code == 0


@pytest.fixture
def mounted(ingot: Ingot, tmp_path: Path) -> Callable[[str], Ingot]:
    """A factory: the command line after shell commands, whose mounts (at `disk`, say) nobody else sees."""
    (tmp_path / "disk").mkdir()
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(tmp_path / "disk")]
    if shutil.which("unshare") is None or subprocess.run(tried, capture_output=True).returncode:
        pytest.skip("this user may not mount; a limit on the size of files stands for a full disk")

    def make(shell: str) -> Ingot:
        return ingot.by("unshare", "--mount", "sh", "-c", f'{shell} && exec "$@"', "sh", *ingot.prefix)

    return make


def test_too_little_room_is_told_before_any_work(
    mounted: Any, model: Path, text: Path, tmp_path: Path
) -> None:
    ingot = mounted("mount -t tmpfs -o size=1m none disk")
    ended = ingot("run", "--model", model, "--evaluation", text, "--store", "disk/st", "--out", "out")
    ended.refuses("of disk space for the store", "are free", "ingot gc", "--store")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_is_one_error_and_the_run_resumes_where_there_is_room(
    mounted: Any, model: Path, text: Path, tmp_path: Path
) -> None:
    # --force: the plan foresees that the disk is too small, and would refuse.
    text.write_text(f"{text.read_text()}\n<|endoftext|>\n{text.read_text()}")
    line = ("run", "--model", str(model), "--target", "cpu-int8", "--evaluation", str(text), "--store",
            "disk/st", "--out", "out", "--set", "cost.repeats=1", "--set", "cost.passes=1",
            "--force")  # fmt: skip
    shell = (
        'mount -t tmpfs -o size=5m none disk; "$@"; echo "first: $?"; find disk/st/tmp -type f; '
        f"{sys.executable} -P -m ingot verify --store disk/st && mount -o remount,size=50m disk"
    )
    ended = mounted(shell)(*line)
    assert "first: 2\nsound artifacts: " in ended.out
    assert ended.err.count("error: ") == 1
    assert "error: no space left on the disk" in ended.err
    assert "ingot gc --max-size" in ended.err
    assert ended.code == 0
    assert "PASS  cpu-int8" in ended.out
    assert "cached  load" in ended.err


def test_a_store_that_is_read_only_is_told_and_can_be_read(mounted: Any, workplace: Workplace) -> None:
    ingot = mounted("mount --bind w/st w/st && mount -o remount,bind,ro w/st")
    before = sorted(workplace.directory.rglob("*"))
    ended = ingot("run", "w/ingot.yaml", "--store", "w/st", "--out", "w/out", "--set", "cost.repeats=2")
    ended.refuses("cannot write: read-only file system", "w/st", "--store")
    assert sorted(workplace.directory.rglob("*")) == before
    assert ingot("plan", "w/ingot.yaml", "--store", "w/st").code == 0
    assert ingot("ls", "--store", "w/st").out.count(" onnx ") == 3
    assert ingot("ls", "--runs", "--store", "w/st").code == 0
    assert ingot("verify", "--store", "w/st").code == 0
    assert ingot("gate", "--store", "w/st").code == 0
    ingot("gc", "--store", "w/st").refuses("read-only file system")


def test_a_directory_without_rights_is_told(here: Here) -> None:
    """As a plain user, whom rights bind; root may do anything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "model").mkdir()
        (folder / "closed").mkdir(mode=0o555)
        line = ("run", "--model", folder / "model", "--store")
        # Imports everything, while it can still be read.
        here(*line, folder / "st").refuses("it holds no weights")
        was_root = os.geteuid() == 0
        if was_root:
            try:
                os.seteuid(NOBODY)
            except PermissionError:
                pytest.skip("this root user may not become another")
        try:
            ended = here(*line, folder / "closed" / "st")
        finally:
            if was_root:
                os.seteuid(0)
    ended.refuses("cannot write: permission denied", "closed/st", "--store")
