"""What a terminal shows: the line of a running stage at any width, the final table, plain characters."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline.cli.live import Row, running_line
from ingot.pipeline.cli.outcome import fitting_table
from ingot.pipeline.cli.streams import HANDLER, never_fail
from ingot.pipeline.events import Progress
from rich.cells import cell_len
from rich.console import Console

if TYPE_CHECKING:
    from types import ModuleType

    from .conftest import Workplace

COUNTS = st.integers(0, 10**12)


class TestRunningLine:
    ROW = Row("reference", "tokens", started=0.0, done=250, total=1000, measured=5.0, rss_bytes=480_000_000)

    def test_a_wide_terminal_shows_all_of_it(self) -> None:
        line = running_line(self.ROW, 15.0, 120).replace("\u202f", " ")
        # 250 of 1000 in 10 seconds: 25 a second, so 30 seconds for the other 750.
        assert line == (
            "⠋ reference                 ━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌   25%  250/1,000 tokens  25.0/s  480 MB  0:15  "
            "0:30 left"
        )

    def test_a_narrow_one_keeps_what_matters_most(self) -> None:
        line = running_line(self.ROW, 15.0, 46).replace("\u202f", " ")
        assert "25%" in line
        assert "0:30 left" in line
        assert "━" not in line

    def test_before_the_extent_is_known_nothing_is_made_up(self) -> None:
        line = running_line(Row("load", "load", started=10.0), 13.0, 100)
        assert line.split() == ["⠋", "load", "load", "0:03"]

    @given(done=COUNTS, total=COUNTS, width=st.integers(20, 300), now=st.floats(0.1, 1e6))
    def test_no_line_is_wider_than_the_terminal(self, done: int, total: int, width: int, now: float) -> None:
        row = Row("quality@cpu-int8", "tokens", 0.0, done=done, total=total, rss_bytes=10**9)
        assert cell_len(running_line(row, now, width)) <= width

    def test_a_new_count_is_timed_from_its_own_beginning(self) -> None:
        row = self.ROW.after(Progress("reference", 10, 20, "windows"), 100.0)
        assert (row.first, row.measured, row.what) == (10, 100.0, "windows")
        later = row.after(Progress("reference", 15, 20, "windows"), 110.0)
        assert "0.500/s" in running_line(later, 110.0, 120)
        assert "0:10 left" in running_line(later, 110.0, 120)


class TestTable:
    @pytest.mark.parametrize(("width", "headings"), [(120, 4), (80, 3), (60, 2), (40, 2)])
    def test_a_narrow_terminal_gets_fewer_columns(
        self, samples: ModuleType, width: int, headings: int
    ) -> None:
        target = samples.target("cpu-int4")
        console = Console(width=width, file=io.StringIO())
        table = fitting_table(target, console)
        assert len(table.columns) == 1 + headings


@pytest.mark.parametrize(
    ("text", "plain"), [("−49 %", "-49 %"), ("a … b", "a ~ b"), ("✓ ≤ 2", "+ <= 2"), ("日本", "??")]
)
def test_a_character_that_cannot_be_shown_becomes_the_nearest_that_can(text: str, plain: str) -> None:
    never_fail()
    assert text.encode("ascii", HANDLER).decode() == plain


# A session of its own, whose terminal is standard input, so that a Ctrl-C written to it is a signal.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "os.setsid()\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
)


def on_a_terminal(
    workplace: Workplace, columns: int, **environment: str
) -> tuple[subprocess.Popen[bytes], int]:
    """Starts a run on a pseudo-terminal of that width; the process and the terminal's other end."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, *workplace.ingot.prefix[1:], *workplace.command[:-1]],
        cwd=workplace.directory,
        env={**os.environ, "COLUMNS": str(columns), "LINES": "30", "TERM": "xterm", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    return process, ours


def read_all(terminal: int) -> str:
    """Everything that is written to a terminal until its last writer is gone."""
    chunks = []
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # how Linux tells the end of a terminal
            break
        if not data:
            break
        chunks.append(data)
    os.close(terminal)
    return b"".join(chunks).decode()


class TestTerminal:
    def test_finished_stages_scroll_by_and_the_cursor_comes_back(self, workplace: Workplace) -> None:
        workplace.forget("quantize@cpu-int8")
        process, terminal = on_a_terminal(workplace, 100)
        told = read_all(terminal)
        assert process.wait(60) == 0
        assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l")
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told)
        assert plain.count("  built  quantize@cpu-int8") == 1
        assert plain.count(" cached  load") == 1
        assert "PASS  cpu-int8" in plain

    def test_without_colours_none_are_written(self, workplace: Workplace) -> None:
        process, terminal = on_a_terminal(workplace, 100, NO_COLOR="1")
        told = read_all(terminal)
        assert process.wait(60) == 0
        # Bold and dim are no colours; 3x, 4x and 9x are.
        assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[0-7]|4[0-7]|9[0-7])m", told)

    def test_ctrl_c_leaves_the_terminal_as_it_was(self, workplace: Workplace) -> None:
        workplace.forget("load", "quantize@cpu-int8", "export@cpu-int8")
        process, terminal = on_a_terminal(workplace, 60)
        before = termios.tcgetattr(terminal)
        ends = time.monotonic() + 60
        while not workplace.workers():
            assert time.monotonic() < ends
            time.sleep(0.005)
        os.write(terminal, b"\x03")
        after = termios.tcgetattr(terminal)
        told = read_all(terminal)
        assert process.wait(60) == 130
        assert after == before
        assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l")
        assert told.rstrip().endswith("stopped; run the same command again to go on from here")
        assert "Traceback" not in told
        assert workplace.workers() == []
        assert workplace.run().code == 0
