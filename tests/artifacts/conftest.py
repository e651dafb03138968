"""Fixtures of the store's tests: publishing in one call, children that die on cue, a user without rights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts import gc, verify  # noqa: F401 - loaded before rights are dropped
from ingot.artifacts.faults import VARIABLE
from ingot.artifacts.files import remove_tree
from ingot.artifacts.manifest import Action

if TYPE_CHECKING:
    from ingot.artifacts.manifest import Artifact
    from ingot.artifacts.store import Store

Publish = Callable[..., "Artifact"]
NOBODY = 65534


@pytest.fixture
def publish() -> Publish:
    """publish(store, key=None, **files): an artifact of these texts; with a key, an action record too."""

    def make(store: Store, key: str | None = None, **files: str) -> Artifact:
        with store.outbox() as outbox:
            for name, text in (files or {"weights": "1 2 3"}).items():
                outbox.write_text(name, text)
            artifact = outbox.publish("checkpoint", {"layers": 2})
        if key is not None:
            store.record(Action(key, "load", {"stage": "load"}, artifact.digest, {"seconds": 1.5}))
        return artifact

    return make


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """child(script, *args, fault=None): runs Python code in a process of its own, to its end or its fault."""

    def run(script: str, *args: object, fault: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
        if fault is not None:
            environment[VARIABLE] = fault
        command = [sys.executable, "-c", script, *map(str, args)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        expected = 0 if fault is None else -signal.SIGKILL
        assert done.returncode == expected, f"exit {done.returncode}: {done.stderr}"
        return done

    return run


@pytest.fixture
def private_mount(tmp_path: Path) -> Callable[[str, str, Path], subprocess.CompletedProcess[str]]:
    """private_mount(shell, script, folder): runs a script after shell commands, its mounts its own."""
    probe = ["unshare", "--mount", "true"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces need rights that this user lacks; the same behaviour is tested without")

    def run(shell: str, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        line = f'set -e; folder="$1"; {shell}; exec "$2" -c "$3" "$1"'
        command = ["unshare", "--mount", "sh", "-c", line, "sh", str(folder), sys.executable, script]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
def powerless() -> Iterator[Path]:
    """A directory owned by the user the test now runs as, who is not root: permission bits bind."""
    folder = Path(tempfile.mkdtemp(prefix="ingot-powerless-"))
    root = os.geteuid() == 0
    if root:
        try:
            os.chown(folder, NOBODY, -1)
            os.seteuid(NOBODY)
        except PermissionError:
            folder.rmdir()
            pytest.skip("this root user may not become another")
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        remove_tree(folder)
